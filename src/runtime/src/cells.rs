//! Copies from and to memories that other threads change meanwhile.
//!
//! All accesses are atomic, a word at a time as far as possible. What is copied while somebody changes it may be a mixture of before and
//! after, as it may for the guests themselves.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// The bytes by their words, with what is before and after these.
fn words(cells: &[UnsafeCell<u8>]) -> (&[AtomicU8], &[AtomicU64], &[AtomicU8]) {
    // SAFETY: atomics have the layout of what they hold and allow what cells do; `align_to` sees to the alignment. The cells are a
    // shared memory's, which nothing but atomics and WebAssembly code accesses, and the code's accesses are as good.
    unsafe {
        let (head, words, tail) = cells.align_to::<AtomicU64>();
        (
            &*(std::ptr::from_ref(head) as *const [AtomicU8]),
            words,
            &*(std::ptr::from_ref(tail) as *const [AtomicU8]),
        )
    }
}

/// All that is in them.
pub(crate) fn read(cells: &[UnsafeCell<u8>]) -> Vec<u8> {
    let (head, words, tail) = words(cells);
    let mut bytes = Vec::with_capacity(cells.len());
    bytes.extend(head.iter().map(|byte| byte.load(Ordering::Relaxed)));
    for word in words {
        bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
    }
    bytes.extend(tail.iter().map(|byte| byte.load(Ordering::Relaxed)));
    bytes
}

/// Writes as many bytes as there are of both.
pub(crate) fn write(cells: &[UnsafeCell<u8>], bytes: &[u8]) {
    let cells = &cells[..cells.len().min(bytes.len())];
    let (head, words, tail) = words(cells);
    let (first, rest) = bytes[..cells.len()].split_at(head.len());
    let (middle, last) = rest.split_at(words.len() * size_of::<u64>());
    for (cell, byte) in head.iter().zip(first).chain(tail.iter().zip(last)) {
        cell.store(*byte, Ordering::Relaxed);
    }
    for (word, bytes) in words.iter().zip(middle.as_chunks::<8>().0) {
        word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_wherever_it_begins_and_ends() {
        let cells: Vec<_> = (0..64).map(|_| UnsafeCell::new(0)).collect();
        let data: Vec<u8> = (1..=64).collect();
        for from in 0..20 {
            for to in from..64 {
                write(&cells, &[0; 64]);
                write(&cells[from..to], &data);
                assert_eq!(read(&cells[from..to]), data[..to - from]);
                assert!(read(&cells[..from]).iter().all(|byte| *byte == 0));
                assert!(read(&cells[to..]).iter().all(|byte| *byte == 0));
            }
        }
    }
}
