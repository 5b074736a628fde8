//! Laws of what a pod's processes share.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::budget::Budget;

fn ipc(limits: IpcLimits) -> Ipc {
    let mut config = wasmtime::Config::new();
    config.shared_memory(true);
    Ipc::new(limits, wasmtime::Engine::new(&config).expect("an engine"))
}

/// Has room for everything.
fn purse() -> Arc<Purse> {
    Purse::new(Budget::new(None))
}

const CREATE: OpenHow = OpenHow {
    create: true,
    exclusive: false,
};
const OPEN: OpenHow = OpenHow {
    create: false,
    exclusive: false,
};
const NEW: OpenHow = OpenHow {
    create: true,
    exclusive: true,
};

fn small(max_messages: u32) -> Attributes {
    Attributes {
        max_messages,
        max_message_size: 8,
    }
}

fn message(data: &[u8], priority: u32) -> Message {
    Message {
        data: Bytes::copy_from_slice(data),
        priority,
    }
}

#[derive(Clone, Debug)]
enum Act {
    Send(Vec<u8>, u32),
    Receive,
}

fn an_act() -> impl Strategy<Value = Act> {
    let send = (prop::collection::vec(any::<u8>(), 0..10), 0..4_u32);
    prop_oneof![
        3 => send.prop_map(|(data, priority)| Act::Send(data, priority)),
        2 => Just(Act::Receive),
    ]
}

proptest! {
    #[test]
    fn a_queue_gives_the_most_urgent_message_and_the_oldest_of_these(
        acts in prop::collection::vec(an_act(), 0..60),
    ) {
        let ipc = ipc(IpcLimits::default());
        let queue = ipc.queue("q", CREATE, small(5), &purse()).expect("room");
        // By priority, each in the order of sending.
        let mut model: BTreeMap<u32, Vec<Vec<u8>>> = BTreeMap::new();
        let mut length = 0;
        for act in acts {
            match act {
                Act::Send(data, priority) => {
                    let expected = match (data.len() > 8, length >= 5) {
                        (true, _) => Err(IpcError::MessageTooLong),
                        (false, true) => Err(IpcError::WouldBlock),
                        (false, false) => Ok(()),
                    };
                    prop_assert_eq!(queue.try_send(&message(&data, priority)), expected);
                    if expected.is_ok() {
                        model.entry(priority).or_default().push(data);
                        length += 1;
                    }
                }
                Act::Receive => {
                    let urgent = model.iter_mut().rev().find(|(_, messages)| !messages.is_empty());
                    let expected = urgent.map(|(priority, messages)| message(&messages.remove(0), *priority));
                    length -= u32::from(expected.is_some());
                    prop_assert_eq!(queue.try_receive().ok(), expected);
                }
            }
            prop_assert_eq!(queue.length(), length);
        }
    }

    #[test]
    fn numbers_in_memory_change_as_plain_ones_do(
        acts in prop::collection::vec((0..5_u8, 0..6_usize, any::<u64>(), 0..4_u32), 1..50),
    ) {
        let ipc = ipc(IpcLimits::default());
        let memory = ipc.memory("m", CREATE, 1, &purse()).expect("room");
        let mut model = [0_u8; 64];
        for (at, operation, operand, width) in acts {
            let (offset, width) = (u64::from(at) * 8, 1_u8 << width);
            let range = usize::from(at) * 8..usize::from(at) * 8 + usize::from(width);
            let mut old = [0; 8];
            old[..usize::from(width)].copy_from_slice(&model[range.clone()]);
            let old = u64::from_le_bytes(old);
            let (operation, new) = match operation {
                0 => (Operation::Add, old.wrapping_add(operand)),
                1 => (Operation::Sub, old.wrapping_sub(operand)),
                2 => (Operation::And, old & operand),
                3 => (Operation::Or, old | operand),
                4 => (Operation::Xor, old ^ operand),
                _ => (Operation::Exchange, operand),
            };
            prop_assert_eq!(memory.update(offset, width, operation, operand), Ok(old));
            model[range].copy_from_slice(&new.to_le_bytes()[..usize::from(width)]);
            prop_assert_eq!(memory.read(0, 64), Ok(model.to_vec()));
        }
    }
}

#[test]
fn names_are_found_made_and_taken_away() {
    let ipc = ipc(IpcLimits::default());
    assert_eq!(ipc.semaphore("s", OPEN, 0).err(), Some(IpcError::NoEntry));
    let one = ipc.semaphore("s", NEW, 3).expect("room");
    assert_eq!(ipc.semaphore("s", NEW, 3).err(), Some(IpcError::Exist));
    let same = ipc.semaphore("s", CREATE, 7).expect("it is there");
    same.try_acquire().expect("three");
    assert_eq!(one.value(), 2);
    ipc.semaphores().unlink("s").expect("it is there");
    let other = ipc.semaphore("s", CREATE, 7).expect("room");
    assert_eq!((one.value(), other.value()), (2, 7));
    for name in ["", "a\0b", &"x".repeat(256)] {
        assert_eq!(
            ipc.semaphore(name, CREATE, 0).err(),
            Some(IpcError::Invalid)
        );
    }
}

#[test]
fn there_are_bounds_on_count_and_bytes_and_all_is_given_back() {
    let limits = IpcLimits {
        semaphores: 2,
        bytes: 200_000,
        ..IpcLimits::default()
    };
    let ipc = ipc(limits);
    let held = ipc.semaphore("a", CREATE, 0).expect("room");
    ipc.semaphore("b", CREATE, 0).expect("room");
    assert_eq!(ipc.semaphore("c", CREATE, 0).err(), Some(IpcError::TooMany));
    ipc.semaphores().unlink("a").expect("it is there");
    assert_eq!(ipc.semaphore("c", CREATE, 0).err(), Some(IpcError::TooMany));
    drop(held);
    ipc.semaphore("c", CREATE, 0).expect("room again");

    ipc.memory("m", CREATE, 65_537, &purse())
        .expect("room for two pages");
    assert_eq!(
        ipc.memory("n", CREATE, 65_537, &purse()).err(),
        Some(IpcError::InsufficientMemory)
    );
    let large = Attributes {
        max_messages: 100,
        max_message_size: 1000,
    };
    assert_eq!(
        ipc.queue("q", CREATE, large, &purse()).err(),
        Some(IpcError::InsufficientMemory)
    );
    ipc.memories().unlink("m").expect("it is there");
    ipc.queue("q", CREATE, large, &purse()).expect("room again");
    let huge = Attributes {
        max_messages: u32::MAX,
        max_message_size: u32::MAX,
    };
    assert_eq!(
        ipc.queue("r", CREATE, huge, &purse()).err(),
        Some(IpcError::Invalid)
    );
    assert_eq!(
        ipc.memory("o", CREATE, u64::MAX, &purse()).err(),
        Some(IpcError::InsufficientMemory)
    );
}

#[test]
fn memory_has_an_end_and_numbers_their_places() {
    let ipc = ipc(IpcLimits::default());
    let memory = ipc.memory("m", CREATE, 1, &purse()).expect("room");
    assert_eq!(memory.size(), 65_536);
    assert_eq!(memory.write(65_535, b"ab"), Err(IpcError::OutOfBounds));
    assert_eq!(memory.read(u64::MAX, 2), Err(IpcError::OutOfBounds));
    assert_eq!(memory.read(0, u64::MAX), Err(IpcError::Invalid));
    assert_eq!(memory.load(65_536, 1), Err(IpcError::OutOfBounds));
    assert_eq!(memory.load(2, 4), Err(IpcError::OutOfBounds));
    assert_eq!(memory.load(0, 3), Err(IpcError::Invalid));
    assert_eq!(memory.compare_exchange(8, 8, 1, 5), Ok(0));
    assert_eq!(memory.compare_exchange(8, 8, 0, 5), Ok(0));
    assert_eq!(memory.load(8, 8), Ok(5));
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_woken_or_gives_up_in_time() {
    let ipc = ipc(IpcLimits::default());
    let queue = ipc.queue("q", CREATE, small(1), &purse()).expect("room");
    let second = Some(Duration::from_secs(1));
    assert_eq!(queue.receive(second).await, Err(IpcError::TimedOut));
    let (sent, received) = tokio::join!(queue.send(message(b"x", 0), None), queue.receive(None));
    assert_eq!((sent, received.map(|it| it.priority)), (Ok(()), Ok(0)));
    queue.try_send(&message(b"1", 0)).expect("room");
    assert_eq!(
        queue.send(message(b"2", 0), second).await,
        Err(IpcError::TimedOut)
    );
    let later = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        queue.try_receive()
    };
    let (sent, _) = tokio::join!(queue.send(message(b"2", 0), second), later);
    assert_eq!(sent, Ok(()));

    let semaphore = ipc.semaphore("s", CREATE, 0).expect("room");
    assert_eq!(semaphore.acquire(second).await, Err(IpcError::TimedOut));
    let release = async { semaphore.release(1) };
    assert_eq!(
        tokio::join!(semaphore.acquire(None), release),
        (Ok(()), Ok(()))
    );
    assert_eq!(semaphore.release(u32::MAX), Err(IpcError::Overflow));

    let memory = ipc.memory("m", CREATE, 1, &purse()).expect("room");
    assert_eq!(memory.wait(0, 4, 1, None).await, Err(IpcError::WouldBlock));
    assert_eq!(memory.wait(0, 4, 0, second).await, Err(IpcError::TimedOut));
    let notify = async { memory.notify(0, 5) };
    let (woken, count) = tokio::join!(memory.wait(0, 4, 0, None), notify);
    assert_eq!((woken, count), (Ok(()), Ok(1)));
}

#[test]
fn what_is_made_is_its_makers_too() {
    let ipc = ipc(IpcLimits::default());
    let budget = Budget::new(Some(100_000));
    let maker = Purse::new(Arc::clone(&budget));
    let memory = ipc.memory("m", CREATE, 1, &maker).expect("room");
    assert_eq!(budget.used(), 65_536);
    let more = ipc.memory("n", CREATE, 1, &maker);
    assert_eq!(more.err(), Some(IpcError::InsufficientMemory));
    let others = ipc.memory("m", OPEN, 1, &purse()).expect("there");
    drop((memory, maker));
    ipc.memories().unlink("m").expect("there");
    assert_eq!(budget.used(), 65_536, "somebody has it");
    drop(others);
    assert_eq!(budget.used(), 0);
    ipc.memory("n", CREATE, 4 << 20, &purse())
        .expect("what was refused took nothing");
}
