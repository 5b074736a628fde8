//! The node agent: pod workers, status, logs and the backends that run pods.
