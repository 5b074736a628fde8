//! Sends as many jobs as its argument says to the pod's queue `jobs`, every third one urgent, and then the word to stop.

use vaquita_guest::ErrorCode;
use vaquita_guest::queues::{Attributes, OpenFlags, Queue};

fn main() -> Result<(), ErrorCode> {
    let count: u32 = std::env::args()
        .nth(1)
        .and_then(|count| count.parse().ok())
        .unwrap_or(10);
    let small = Attributes {
        max_messages: 4,
        max_message_size: 64,
    };
    let queue = Queue::open("jobs", OpenFlags::CREATE, Some(small))?;
    for job in 1..=count {
        let priority = if job % 3 == 0 { 2 } else { 1 };
        // The queue is small: this waits for the consumer.
        queue.blocking_send(format!("job {job}").as_bytes(), priority, None)?;
    }
    queue.blocking_send(b"stop", 0, None)?;
    println!("sent {count} jobs");
    Ok(())
}
