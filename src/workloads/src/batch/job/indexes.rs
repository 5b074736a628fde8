//! Sets of indexes as text: `0,2-5,7`, rising, each interval with its ends.

/// Why a text is no set of indexes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum IndexesError {
    #[error(
        "the fragment {0:?} violates the requirement that an index interval can have at most two parts separated by '-'"
    )]
    Parts(String),
    #[error("cannot convert string to integer for index: {0:?}")]
    Number(String),
    #[error("too large index: {0:?}")]
    TooLarge(String),
    #[error("non-increasing order, previous: {previous}, current: {current}")]
    Order { previous: i64, current: i64 },
}

/// An interval with both its ends.
type Interval = (i64, i64);

/// How many indexes there are in `text`, all below `completions`.
pub(super) fn count(text: &str, completions: i32) -> Result<i64, IndexesError> {
    let (mut total, mut last) = (0, None);
    if text.is_empty() {
        return Ok(0);
    }
    for fragment in text.split(',') {
        let (first, end) = interval(fragment, completions)?;
        if let Some(previous) = last.filter(|last| *last >= first) {
            return Err(IndexesError::Order {
                previous,
                current: first,
            });
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

fn interval(fragment: &str, completions: i32) -> Result<Interval, IndexesError> {
    let mut parts = fragment.split('-');
    let (first, second) = (parts.next().unwrap_or_default(), parts.next());
    if parts.next().is_some() {
        return Err(IndexesError::Parts(fragment.to_owned()));
    }
    let first = index(first, completions)?;
    let Some(second) = second else {
        return Ok((first, first));
    };
    let second = index(second, completions)?;
    if first >= second {
        return Err(IndexesError::Order {
            previous: first,
            current: second,
        });
    }
    Ok((first, second))
}

fn index(text: &str, completions: i32) -> Result<i64, IndexesError> {
    let index: i64 = text
        .parse()
        .map_err(|_| IndexesError::Number(text.to_owned()))?;
    if index >= i64::from(completions) {
        return Err(IndexesError::TooLarge(text.to_owned()));
    }
    Ok(index)
}

/// The first index that is in both sets, if one is. Fragments that are no intervals count for nothing here.
pub(super) fn overlap(one: &str, other: &str, completions: i32) -> Option<i64> {
    let parsed = |text: &str| -> Vec<Interval> {
        text.split(',')
            .filter_map(|fragment| interval(fragment, completions).ok())
            .collect()
    };
    let (one, other) = (parsed(one), parsed(other));
    let (mut a, mut b) = (one.iter(), other.iter());
    let (mut left, mut right) = (a.next()?, b.next()?);
    loop {
        if left.0 <= right.1 && right.0 <= left.1 {
            return Some(left.0.max(right.0));
        }
        if left.0 <= right.0 {
            left = a.next()?;
        } else {
            right = b.next()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counts() {
        assert_eq!(count("", 5), Ok(0));
        assert_eq!(count("0", 5), Ok(1));
        assert_eq!(count("0,2-4", 5), Ok(4));
        for (text, message) in [
            (
                "1-2-3",
                "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts \
                       separated by '-'",
            ),
            ("a", "cannot convert string to integer for index: \"a\""),
            ("1,", "cannot convert string to integer for index: \"\""),
            ("5", "too large index: \"5\""),
            ("3-2", "non-increasing order, previous: 3, current: 2"),
            ("0-2,2", "non-increasing order, previous: 2, current: 2"),
        ] {
            assert_eq!(count(text, 5).unwrap_err().to_string(), message);
        }
    }

    /// The set as text, in the fewest intervals.
    fn text_of(indexes: &BTreeSet<i64>) -> String {
        let mut intervals: Vec<Interval> = Vec::new();
        for index in indexes {
            match intervals.last_mut() {
                Some((_, end)) if *end + 1 == *index => *end = *index,
                _ => intervals.push((*index, *index)),
            }
        }
        let shown = intervals.iter().map(|(first, end)| {
            if first == end {
                first.to_string()
            } else {
                format!("{first}-{end}")
            }
        });
        shown.collect::<Vec<_>>().join(",")
    }

    proptest! {
        #[test]
        fn agrees_with_sets(
            one in proptest::collection::btree_set(0..40_i64, 0..20),
            other in proptest::collection::btree_set(0..40_i64, 0..20),
        ) {
            let (a, b) = (text_of(&one), text_of(&other));
            prop_assert_eq!(count(&a, 40), Ok(i64::try_from(one.len()).unwrap()));
            prop_assert_eq!(overlap(&a, &b, 40), one.intersection(&other).next().copied());
        }

        #[test]
        fn survives_any_text(text in "[0-9,-]{0,12}", other in ".{0,12}") {
            let _ = (count(&text, 40), count(&other, 40), overlap(&text, &other, 40));
        }
    }

    #[test]
    fn finds_overlaps() {
        assert_eq!(overlap("0-2,5", "3-4,6", 10), None);
        assert_eq!(overlap("0-2,5", "3,5-6", 10), Some(5));
        assert_eq!(overlap("", "1", 10), None);
        assert_eq!(overlap("x,1", "1,y", 10), Some(1));
    }
}
