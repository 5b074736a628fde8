//! The data: strings and lists of bytes, under keys of bytes.

use std::collections::{HashMap, VecDeque};

/// What a key or a list element takes beyond its bytes, about.
const OVERHEAD: usize = 64;

/// How large the data and an answer may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of keys and values, each with some overhead.
    pub memory: usize,
    /// Bytes of values that one answer may carry.
    pub reply: usize,
}

impl Default for Bounds {
    /// 64 MiB of data, answers of 4 MiB.
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            reply: 4 << 20,
        }
    }
}

/// What is under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    String(Vec<u8>),
    List(VecDeque<Vec<u8>>),
}

impl Value {
    fn size(&self) -> usize {
        match self {
            Self::String(bytes) => bytes.len(),
            Self::List(elements) => elements
                .iter()
                .map(|element| element.len() + OVERHEAD)
                .sum(),
        }
    }
}

/// Why a command could not be done. The data is as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreError {
    /// The key holds the other kind of value.
    WrongType,
    /// The string, or an argument, is no 64-bit integer.
    NotAnInteger,
    /// The number would leave its 64 bits.
    Overflow,
    /// There is no room for more.
    Full,
    /// The answer would be larger than [`Bounds::reply`].
    ReplyTooLarge,
}

/// All keys and their values.
#[derive(Debug, Default)]
pub struct Store {
    bounds: Bounds,
    values: HashMap<Vec<u8>, Value>,
    used: usize,
}

impl Store {
    /// An empty store.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            values: HashMap::new(),
            used: 0,
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, StoreError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::String(bytes)) => Ok(Some(bytes)),
            Some(Value::List(_)) => Err(StoreError::WrongType),
        }
    }

    /// Sets a string, whatever was there.
    pub(crate) fn set(&mut self, key: Vec<u8>, bytes: Vec<u8>) -> Result<(), StoreError> {
        let value = Value::String(bytes);
        let before = self.values.get(&key).map_or(0, |old| entry_size(&key, old));
        self.used = self.room_for(entry_size(&key, &value), before)?;
        self.values.insert(key, value);
        Ok(())
    }

    /// Removes a key and says whether it was there.
    pub(crate) fn delete(&mut self, key: &[u8]) -> bool {
        let removed = self.values.remove(key);
        self.used -= removed.as_ref().map_or(0, |old| entry_size(key, old));
        removed.is_some()
    }

    /// Adds one to the number that a string spells; a key that is not there counts as 0.
    pub(crate) fn increment(&mut self, key: Vec<u8>) -> Result<i64, StoreError> {
        let number = match self.get(&key)? {
            Some(bytes) => parse_integer(bytes)?,
            None => 0,
        };
        let number = number.checked_add(1).ok_or(StoreError::Overflow)?;
        self.set(key, number.to_string().into_bytes())?;
        Ok(number)
    }

    /// Puts elements in front of a list, one after the other, and gives its new length.
    pub(crate) fn push_front(
        &mut self,
        key: Vec<u8>,
        elements: Vec<Vec<u8>>,
    ) -> Result<usize, StoreError> {
        let new = elements
            .iter()
            .map(|element| element.len() + OVERHEAD)
            .sum::<usize>();
        let new_key = match self.values.get(&key) {
            None => key.len() + OVERHEAD,
            Some(Value::List(_)) => 0,
            Some(Value::String(_)) => return Err(StoreError::WrongType),
        };
        self.used = self.room_for(new + new_key, 0)?;
        let value = self
            .values
            .entry(key)
            .or_insert_with(|| Value::List(VecDeque::new()));
        let Value::List(list) = value else {
            return Err(StoreError::WrongType);
        };
        for element in elements {
            list.push_front(element);
        }
        Ok(list.len())
    }

    /// The elements from `start` to `stop`, both included and counted from the end if negative.
    pub(crate) fn range(
        &self,
        key: &[u8],
        start: i64,
        stop: i64,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let list = match self.values.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::List(list)) => list,
            Some(Value::String(_)) => return Err(StoreError::WrongType),
        };
        let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
        let from_front = |index: i64| {
            if index < 0 {
                index.saturating_add(length)
            } else {
                index
            }
        };
        let start = usize::try_from(from_front(start)).unwrap_or(0);
        let Ok(stop) = usize::try_from(from_front(stop)) else {
            return Ok(Vec::new());
        };
        let chosen = list
            .iter()
            .skip(start)
            .take(stop.saturating_add(1).saturating_sub(start));
        if chosen
            .clone()
            .map(|element| element.len() + OVERHEAD)
            .sum::<usize>()
            > self.bounds.reply
        {
            return Err(StoreError::ReplyTooLarge);
        }
        Ok(chosen.cloned().collect())
    }

    /// What will be used once `new` bytes are there instead of `old`.
    fn room_for(&self, new: usize, old: usize) -> Result<usize, StoreError> {
        let used = self.used - old + new;
        // What makes nothing larger is allowed even in a full store.
        if used > self.bounds.memory && new > old {
            Err(StoreError::Full)
        } else {
            Ok(used)
        }
    }
}

fn entry_size(key: &[u8], value: &Value) -> usize {
    key.len() + OVERHEAD + value.size()
}

/// A 64-bit integer in the one way to write it: no plus, no leading zero, no blank.
pub(crate) fn parse_integer(bytes: &[u8]) -> Result<i64, StoreError> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| {
            text.parse::<i64>()
                .ok()
                .filter(|number| number.to_string() == text)
        })
        .ok_or(StoreError::NotAnInteger)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        text.as_bytes().to_vec()
    }

    fn list(store: &Store, start: i64, stop: i64) -> String {
        let elements = store.range(b"l", start, stop).expect("a list");
        elements
            .iter()
            .map(|element| String::from_utf8_lossy(element).into_owned())
            .collect()
    }

    /// The law that the bookkeeping must keep.
    fn assert_used_is_right(store: &Store) {
        assert_eq!(
            store.used,
            store
                .values
                .iter()
                .map(|(key, value)| entry_size(key, value))
                .sum::<usize>()
        );
    }

    #[test]
    fn ranges_count_from_both_ends_and_never_fail() {
        let mut store = Store::default();
        assert_eq!(
            store.push_front(bytes("l"), ["c", "b", "a"].map(bytes).to_vec()),
            Ok(3)
        );
        for (start, stop, expected) in [
            (0, -1, "abc"),
            (0, 0, "a"),
            (1, 1, "b"),
            (-2, -1, "bc"),
            (-100, 100, "abc"),
            (2, 1, ""),
            (3, 5, ""),
            (0, -4, ""),
            (i64::MIN, i64::MAX, "abc"),
            (i64::MAX, i64::MIN, ""),
        ] {
            assert_eq!(list(&store, start, stop), expected, "{start} to {stop}");
        }
        assert_eq!(store.range(b"absent", 0, -1), Ok(vec![]));
    }

    #[test]
    fn numbers_are_counted_exactly_or_not_at_all() {
        let mut store = Store::default();
        assert_eq!(store.increment(bytes("n")), Ok(1));
        assert_eq!(store.increment(bytes("n")), Ok(2));
        for text in ["", " 1", "+1", "01", "-0", "1.0", "9223372036854775808"] {
            store.set(bytes("n"), bytes(text)).expect("room");
            assert_eq!(
                store.increment(bytes("n")),
                Err(StoreError::NotAnInteger),
                "{text:?}"
            );
        }
        store
            .set(bytes("n"), i64::MAX.to_string().into_bytes())
            .expect("room");
        assert_eq!(store.increment(bytes("n")), Err(StoreError::Overflow));
        assert_eq!(store.get(b"n"), Ok(Some(i64::MAX.to_string().as_bytes())));
    }

    #[test]
    fn strings_and_lists_are_told_apart() {
        let mut store = Store::default();
        store.set(bytes("s"), bytes("1")).expect("room");
        store
            .push_front(bytes("l"), vec![bytes("x")])
            .expect("room");
        assert_eq!(store.get(b"l"), Err(StoreError::WrongType));
        assert_eq!(store.increment(bytes("l")), Err(StoreError::WrongType));
        assert_eq!(
            store.push_front(bytes("s"), vec![bytes("x")]),
            Err(StoreError::WrongType)
        );
        assert_eq!(store.range(b"s", 0, -1), Err(StoreError::WrongType));
        store.set(bytes("l"), bytes("now a string")).expect("room");
        assert_eq!(store.get(b"l"), Ok(Some(&b"now a string"[..])));
        assert_used_is_right(&store);
    }

    #[test]
    fn a_full_store_refuses_more_and_recovers_when_something_goes() {
        let mut store = Store::new(Bounds {
            memory: 1000,
            reply: 500,
        });
        for index in 0_u8..5 {
            store.set(vec![index], vec![0; 100]).expect("room");
        }
        assert_eq!(store.set(vec![9], vec![0; 200]), Err(StoreError::Full));
        assert_eq!(
            store.push_front(bytes("l"), vec![vec![0; 100]]),
            Err(StoreError::Full)
        );
        assert!(
            !store.values.contains_key(&b"l"[..]),
            "a refusal leaves nothing behind"
        );
        assert_eq!(store.set(vec![0], vec![0; 50]), Ok(()));
        assert!(store.delete(&[1]) && !store.delete(&[1]));
        assert_eq!(store.push_front(bytes("l"), vec![vec![0; 100]]), Ok(1));
        assert_used_is_right(&store);
    }

    #[test]
    fn an_answer_is_bounded() {
        let mut store = Store::new(Bounds {
            memory: 10_000,
            reply: 500,
        });
        store
            .push_front(bytes("l"), vec![vec![0; 100]; 10])
            .expect("room");
        assert_eq!(store.range(b"l", 0, -1), Err(StoreError::ReplyTooLarge));
        assert_eq!(
            store.range(b"l", 0, 2).map(|elements| elements.len()),
            Ok(3)
        );
    }
}
