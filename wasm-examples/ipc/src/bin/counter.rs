//! Counts in the pod's shared memory `counter`: its argument says how far, and how many of these count together. The last one to
//! come tells the others that all have; each says what it saw then.

use vaquita_guest::ErrorCode;
use vaquita_guest::shared_memory::{Memory, OpenFlags, Operation};

/// Where in the memory the count is, and how many are done.
const COUNT: u64 = 0;
const DONE: u64 = 8;

fn main() -> Result<(), ErrorCode> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse());
    let steps = arguments.next().and_then(Result::ok).unwrap_or(1000_u64);
    let parties = arguments.next().and_then(Result::ok).unwrap_or(1_u64);
    let memory = Memory::open("counter", OpenFlags::CREATE, 16)?;
    for _ in 0..steps {
        memory.atomic_update(COUNT, 8, Operation::Add, 1)?;
    }
    let mut done = memory.atomic_update(DONE, 4, Operation::Add, 1)? + 1;
    while done < parties {
        match memory.wait(DONE, 4, done, None) {
            // Somebody else was done in between.
            Ok(()) | Err(ErrorCode::WouldBlock) => done = memory.atomic_load(DONE, 4)?,
            Err(error) => return Err(error),
        }
    }
    memory.notify(DONE, u32::MAX)?;
    println!("counted to {}", memory.atomic_load(COUNT, 8)?);
    Ok(())
}
