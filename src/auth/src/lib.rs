//! Who asks, and may they: service-account and bootstrap tokens, RBAC with its escalation rules.
