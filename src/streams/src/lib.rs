//! The streams of exec, attach and port-forward: WebSocket and SPDY/3.1, and the ways between them.
