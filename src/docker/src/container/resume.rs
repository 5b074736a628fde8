//! Where a log goes on that somebody else keeps: which of the lines that the engine has are not in it yet.
//!
//! The engine's clock says when it got a line, the other log when that got it, which is a little later. So all of the engine's
//! that are younger than the last line of the log are new, and of those which are older nearly all are old. Which of them
//! are not, their text says: the end of the log is looked for in what the engine has.

use std::collections::VecDeque;

use crate::output::Channel;

/// How far back the engine is asked before the end of the log, in seconds: longer than a line takes from the one to the other.
pub(super) const OVERLAP: i64 = 3;
/// Bytes of the engine's lines that are compared; of more, the older ones are taken for logged.
const MOST_COMPARED: usize = 8 << 20;

/// A line of a log, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// When it was logged, in nanoseconds since 1970.
    pub time: i64,
    /// Where it was written to.
    pub channel: Channel,
    /// What it says, with its newline if it has one.
    pub text: Vec<u8>,
}

/// What comes from the engine until the log's end is found in it.
#[derive(Debug)]
pub(super) struct Overlap {
    tail: Vec<Logged>,
    /// When the last line was logged.
    end: i64,
    kept: VecDeque<Logged>,
    bytes: usize,
}

impl Overlap {
    /// `tail` are the last lines of the log.
    pub(super) fn new(tail: Vec<Logged>) -> Self {
        Self {
            end: tail.iter().map(|line| line.time).max().unwrap_or(i64::MIN),
            tail,
            kept: VecDeque::new(),
            bytes: 0,
        }
    }

    /// From when on the engine is to be asked, in seconds since 1970; 0: from the beginning.
    pub(super) fn since(&self) -> i64 {
        if self.tail.is_empty() {
            0
        } else {
            (self.end / 1_000_000_000 - OVERLAP).max(0)
        }
    }

    /// Takes the engine's next line, if it may be in the log; gives it back if it cannot.
    pub(super) fn put(&mut self, line: Logged) -> Result<(), Logged> {
        if line.time > self.end {
            return Err(line);
        }
        self.bytes += line.text.len();
        self.kept.push_back(line);
        while self.bytes > MOST_COMPARED
            && let Some(oldest) = self.kept.pop_front()
        {
            self.bytes -= oldest.text.len();
        }
        Ok(())
    }

    /// What of the lines so far is not in the log.
    pub(super) fn news(&mut self) -> Vec<Logged> {
        let kept: Vec<Logged> = std::mem::take(&mut self.kept).into();
        self.bytes = 0;
        let mut is_new = vec![false; kept.len()];
        for channel in [Channel::Stdout, Channel::Stderr] {
            let of = |line: &Logged| line.channel == channel;
            let tail: Vec<&Logged> = self.tail.iter().filter(|line| of(line)).collect();
            let places: Vec<usize> = (0..kept.len()).filter(|at| of(&kept[*at])).collect();
            let own: Vec<&Logged> = places.iter().map(|at| &kept[*at]).collect();
            for place in places.iter().skip(logged(&tail, &own)) {
                is_new[*place] = true;
            }
        }
        let all = kept.into_iter().zip(is_new);
        all.filter_map(|(line, is_new)| is_new.then_some(line))
            .collect()
    }
}

/// How many of the engine's lines are in the log, whose last ones `tail` are: as many as there can be. None, if the end of the
/// log is not among them: better twice than not at all.
fn logged(tail: &[&Logged], kept: &[&Logged]) -> usize {
    let is_end = |count: usize| {
        let pairs = tail.iter().rev().zip(kept[..count].iter().rev());
        let mut pairs =
            pairs.map(|(ours, theirs)| ours.text == theirs.text && theirs.time <= ours.time);
        pairs.all(|is_same| is_same)
    };
    if tail.is_empty() {
        return 0;
    }
    (1..=kept.len())
        .rev()
        .find(|count| is_end(*count))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(texts: &[&str], begin: i64) -> Vec<Logged> {
        let line = |(index, text): (usize, &&str)| Logged {
            time: begin + 100 * i64::try_from(index).unwrap(),
            channel: if text.starts_with('!') {
                Channel::Stderr
            } else {
                Channel::Stdout
            },
            text: text.as_bytes().to_vec(),
        };
        texts.iter().enumerate().map(line).collect()
    }

    /// What goes into the log, if it ends with `tail` and the engine then has `kept`.
    fn added(tail: &[Logged], kept: &[Logged]) -> Vec<String> {
        let mut overlap = Overlap::new(tail.to_vec());
        let mut later = Vec::new();
        for line in kept {
            later.extend(overlap.put(line.clone()).err());
        }
        let all = overlap.news().into_iter().chain(later);
        all.map(|line| String::from_utf8(line.text).unwrap())
            .collect()
    }

    #[test]
    fn nothing_is_missing_and_nothing_comes_twice() {
        let all = ["one", "two", "!oops", "three", "!again", "four", "five"];
        let kept = lines(&all, 1000);
        // A line gets from the engine into the log in less than the time to the next, or in more.
        for delay in [1, 99, 250, 1000] {
            for logged in 1..=all.len() {
                for shown in 1..=logged {
                    let tail = lines(&all[..logged], 1000 + delay);
                    let tail = &tail[logged - shown..];
                    let news = added(tail, &kept);
                    let both = ["!", ""].map(|mark| {
                        all[logged..]
                            .iter()
                            .filter(|text| text.starts_with('!') == (mark == "!"))
                            .count()
                    });
                    let has = |mark: bool| {
                        tail.iter()
                            .any(|line| (line.channel == Channel::Stderr) == mark)
                    };
                    // A stream of which the log shows nothing is told again rather than lost.
                    if has(true) && has(false) {
                        assert_eq!(news, all[logged..], "{delay} {logged} {shown}");
                    } else {
                        assert!(news.len() >= both[0] + both[1], "{delay} {logged} {shown}");
                    }
                }
            }
        }
    }

    #[test]
    fn lines_that_are_all_the_same_are_told_apart_by_their_times() {
        let all = ["tick"; 6];
        let kept = lines(&all, 1000);
        for logged in 1..=6 {
            let tail = lines(&all[..logged], 1050);
            assert_eq!(added(&tail, &kept).len(), 6 - logged);
        }
    }

    #[test]
    fn without_a_log_everything_is_new() {
        let kept = lines(&["one", "two"], 1000);
        assert_eq!(added(&[], &kept), ["one", "two"]);
        assert_eq!(Overlap::new(Vec::new()).since(), 0);
        // Nor is anything lost if what was logged last is nowhere to be found.
        assert_eq!(added(&lines(&["other"], 5000), &kept), ["one", "two"]);
    }
}
