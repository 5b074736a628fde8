//! Sets of completion indexes as a job's status has them: `0,2-5,7`, rising, in as few intervals as there are.

use std::{collections::BTreeMap, fmt};

/// A set of indexes, kept as intervals: an indexed job may have very many.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Indexes {
    /// First → last of each interval; no two touch.
    intervals: BTreeMap<i32, i32>,
}

impl Indexes {
    /// Reads a status. What can't be read is left out: the API server lets none of that in.
    pub(super) fn parse(text: &str) -> Self {
        let mut indexes = Self::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>())
                && (0..=last).contains(&first)
            {
                indexes.insert_interval(first, last);
            }
        }
        indexes
    }

    pub(super) fn insert(&mut self, index: i32) {
        if index >= 0 {
            self.insert_interval(index, index);
        }
    }

    fn insert_interval(&mut self, mut first: i32, mut last: i32) {
        // Whatever overlaps or touches becomes one.
        while let Some((&known_first, &known_last)) =
            self.intervals.range(..=last.saturating_add(1)).next_back()
            && known_last.saturating_add(1) >= first
        {
            self.intervals.remove(&known_first);
            first = first.min(known_first);
            last = last.max(known_last);
        }
        self.intervals.insert(first, last);
    }

    pub(super) fn contains(&self, index: i32) -> bool {
        let before = self.intervals.range(..=index).next_back();
        before.is_some_and(|(_, last)| *last >= index)
    }

    /// Those of them below `end`.
    pub(super) fn below(&self, end: i32) -> Self {
        let before = self.intervals.range(..end);
        Self {
            intervals: before
                .map(|(first, last)| (*first, (*last).min(end - 1)))
                .collect(),
        }
    }

    /// How many are in both sets.
    pub(super) fn common(&self, other: &Self) -> i64 {
        let mut count = 0;
        for (first, last) in &self.intervals {
            let before = other.intervals.range(..first).next_back();
            let from = other.intervals.range(first..=last);
            for (start, end) in before.into_iter().chain(from) {
                let (start, end) = (start.max(first), end.min(last));
                count += (i64::from(*end) - i64::from(*start) + 1).max(0);
            }
        }
        count
    }

    /// How many there are.
    pub(super) fn len(&self) -> i64 {
        let lengths = self.intervals.iter();
        lengths
            .map(|(first, last)| i64::from(*last) - i64::from(*first) + 1)
            .sum()
    }

    /// All of them, rising.
    pub(super) fn iter(&self) -> impl Iterator<Item = i32> {
        self.intervals
            .iter()
            .flat_map(|(first, last)| *first..=*last)
    }

    /// The indexes below `end` that are not in the set, rising.
    pub(super) fn missing(&self, end: i32) -> impl Iterator<Item = i32> {
        let mut next = 0;
        std::iter::from_fn(move || {
            while let Some((_, last)) = self.intervals.range(..=next).next_back()
                && *last >= next
            {
                next = last.checked_add(1)?;
            }
            let found = next;
            next = next.checked_add(1)?;
            (found < end).then_some(found)
        })
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (first, last)) in self.intervals.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_text_is_as_short_as_it_can_be() {
        let mut indexes = Indexes::parse("7,0,2-4");
        assert_eq!(indexes.to_string(), "0,2-4,7");
        indexes.insert(1);
        indexes.insert(8);
        assert_eq!(indexes.to_string(), "0-4,7,8");
        assert_eq!(indexes.len(), 7);
        assert_eq!(indexes.missing(11).collect::<Vec<_>>(), [5, 6, 9, 10]);
        assert_eq!(Indexes::parse("x,-3,5-2,-").to_string(), "");
    }

    #[test]
    fn huge_intervals_cost_nothing() {
        let indexes = Indexes::parse("0-2147483647");
        assert_eq!(indexes.len(), 1 << 31);
        assert_eq!(indexes.missing(i32::MAX).next(), None);
    }

    proptest! {
        #[test]
        fn it_is_a_set(members in prop::collection::vec(0..40i32, 0..40)) {
            let mut indexes = Indexes::default();
            for member in &members {
                indexes.insert(*member);
            }
            let expected: BTreeSet<_> = members.into_iter().collect();
            prop_assert_eq!(indexes.len(), i64::try_from(expected.len()).unwrap());
            let missing: Vec<_> = (0..40).filter(|index| !expected.contains(index)).collect();
            prop_assert_eq!(indexes.missing(40).collect::<Vec<_>>(), missing);
            prop_assert_eq!(Indexes::parse(&indexes.to_string()), indexes);
        }

        #[test]
        fn sets_have_members_in_common(
            one in prop::collection::btree_set(0..40i32, 0..30),
            other in prop::collection::btree_set(0..40i32, 0..30),
            end in 0..45i32,
        ) {
            let set = |members: &BTreeSet<i32>| {
                let mut indexes = Indexes::default();
                for member in members {
                    indexes.insert(*member);
                }
                indexes
            };
            let common = i64::try_from(one.intersection(&other).count()).unwrap();
            prop_assert_eq!(set(&one).common(&set(&other)), common);
            let below: BTreeSet<_> = one.iter().copied().filter(|member| *member < end).collect();
            prop_assert_eq!(set(&one).below(end), set(&below));
            for member in 0..40 {
                prop_assert_eq!(set(&one).contains(member), one.contains(&member));
            }
        }
    }
}
