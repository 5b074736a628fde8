//! Does the jobs of the pod's queue `jobs` until it is told to stop, there or by the end of its pod.

use vaquita_guest::ErrorCode;
use vaquita_guest::lifecycle;
use vaquita_guest::queues::{Attributes, OpenFlags, Queue};

fn main() -> Result<(), ErrorCode> {
    let small = Attributes {
        max_messages: 4,
        max_message_size: 64,
    };
    let queue = Queue::open("jobs", OpenFlags::CREATE, Some(small))?;
    let (arrived, ending) = (queue.subscribe_receive(), lifecycle::subscribe());
    let mut done = 0;
    loop {
        wasip2::io::poll::poll(&[&arrived, &ending]);
        if let Some(termination) = lifecycle::ending() {
            let remaining = termination.remaining.map(std::time::Duration::from_nanos);
            println!("told to end after {done} jobs, within {remaining:?}");
            return Ok(());
        }
        match queue.receive() {
            Ok(message) if message.data == b"stop" => break,
            Ok(message) => {
                println!("{}", String::from_utf8_lossy(&message.data));
                done += 1;
            }
            // Another one was faster.
            Err(ErrorCode::WouldBlock) => {}
            Err(error) => return Err(error),
        }
    }
    println!("did {done} jobs");
    Ok(())
}
