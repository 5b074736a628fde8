//! The arithmetic of a rolling update: how many pods the old and the new replication controller are to have next.

/// A replication controller in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    /// How many pods it is told to have.
    pub(super) size: i32,
    /// How many of its pods are available.
    pub(super) available: i32,
    /// Whether what it reports is about the size that it was told last.
    pub(super) settled: bool,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Give the new one this many pods.
    SizeNew(i32),
    /// Give the old one this many pods.
    SizeOld(i32),
    /// Nothing before more pods are available.
    Wait,
    /// Nothing: the new one has all pods, and they are available.
    Done,
}

/// The next step of an update to `desired` pods of the new controller and none of the old one.
///
/// There is one pod more than desired at most (unless there were more from the start), and available pods are given up only
/// while as many as desired stay.
pub(super) fn next(old: Counted, new: Counted, desired: i32) -> Step {
    let desired = desired.max(0);
    if new.size > desired {
        return Step::SizeNew(desired);
    }
    let room = i64::from(desired) + 1 - i64::from(old.size) - i64::from(new.size);
    if new.size < desired && room > 0 {
        let more = i32::try_from(room).unwrap_or(i32::MAX);
        return Step::SizeNew(new.size.saturating_add(more).min(desired));
    }
    if !old.settled || !new.settled {
        return Step::Wait;
    }
    if old.size > 0 {
        let useless = (old.size - old.available).max(0);
        let spare = i64::from(old.available) + i64::from(new.available) - i64::from(desired);
        let spare = i32::try_from(spare.max(0)).unwrap_or(i32::MAX);
        let fewer = useless.saturating_add(spare).min(old.size);
        return match fewer {
            0 => Step::Wait,
            fewer => Step::SizeOld(old.size - fewer),
        };
    }
    if new.size == desired && new.available >= desired {
        Step::Done
    } else {
        Step::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(size: i32) -> Counted {
        some(size, size)
    }

    fn some(size: i32, available: i32) -> Counted {
        Counted {
            size,
            available,
            settled: true,
        }
    }

    #[test]
    fn one_more_then_one_fewer() {
        assert_eq!(next(all(3), all(0), 3), Step::SizeNew(1));
        assert_eq!(next(all(3), some(1, 0), 3), Step::Wait);
        assert_eq!(next(all(3), all(1), 3), Step::SizeOld(2));
        assert_eq!(next(all(0), some(3, 2), 3), Step::Wait);
        assert_eq!(next(all(0), all(3), 3), Step::Done);
    }

    #[test]
    fn what_does_not_work_goes_first_and_sizes_may_differ() {
        assert_eq!(next(some(3, 1), some(1, 0), 3), Step::SizeOld(1));
        assert_eq!(next(all(5), all(0), 3), Step::SizeOld(3));
        assert_eq!(next(all(3), all(0), 5), Step::SizeNew(3));
        assert_eq!(next(all(3), all(0), 0), Step::SizeOld(0));
        assert_eq!(next(all(0), all(0), 0), Step::Done);
        assert_eq!(next(all(1), all(4), 3), Step::SizeNew(3));
    }

    #[test]
    fn nothing_is_given_up_by_old_news() {
        let stale = Counted {
            settled: false,
            ..all(1)
        };
        assert_eq!(next(all(3), stale, 3), Step::Wait);
        assert_eq!(next(stale, all(3), 3), Step::Wait);
    }

    /// Every update comes to its end, whatever the sizes, without ever breaking its promises.
    #[test]
    fn every_update_ends_and_keeps_its_promises() {
        for before in 0..7 {
            for desired in 0..7 {
                let (mut old, mut new) = (all(before), all(0));
                let mut steps = 0;
                loop {
                    match next(old, new, desired) {
                        Step::SizeNew(size) => new.size = size,
                        Step::SizeOld(size) => old = all(size),
                        // The pods of the new one become available one after the other.
                        Step::Wait => new.available += 1,
                        Step::Done => break,
                    }
                    new.available = new.available.min(new.size);
                    assert!(old.size + new.size <= before.max(desired + 1));
                    assert!(old.available + new.available >= before.min(desired));
                    steps += 1;
                    assert!(steps < 100, "{before} to {desired} does not end");
                }
                assert_eq!((old.size, new.size), (0, desired));
            }
        }
    }
}
