//! What processes of a pod make to talk to each other without a network.

/// Bounds of what the processes of a pod may make together. What goes beyond one is refused with an error that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IpcLimits {
    /// Message queues. Default: 64.
    pub queues: usize,
    /// The most messages that one queue may be made for. Default: 1024.
    pub messages: usize,
    /// The longest message that a queue may be made for, in bytes. Default: 1 MiB.
    pub message_size: usize,
    /// Bytes of all shared memories, and of all messages that wait, together. Default: 64 MiB.
    pub bytes: u64,
    /// Shared memories. Default: 64.
    pub memories: usize,
    /// Semaphores. Default: 256.
    pub semaphores: usize,
}

impl Default for IpcLimits {
    fn default() -> Self {
        Self {
            queues: 64,
            messages: 1024,
            message_size: 1 << 20,
            bytes: 64 << 20,
            memories: 64,
            semaphores: 256,
        }
    }
}
