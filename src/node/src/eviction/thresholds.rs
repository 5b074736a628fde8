//! How little of the machine may be left: `memory.available<100Mi,nodefs.available<10%`, as a kubelet's flag has it. Pure.

use std::{fmt, str::FromStr};

use vaquita_api::quantity::{Format, Quantity};

/// Below what the node is under pressure, and ends pods until it no longer is.
///
/// Written as a kubelet's `--eviction-hard`: signals with a quantity or a percentage, separated by commas; an empty text is no
/// threshold at all. The default is upstream's:
/// `memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvictionThresholds(Vec<Threshold>);

/// A signal, and below what it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Threshold {
    pub(super) signal: Signal,
    least: Least,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    /// Bytes of memory.
    Memory,
    /// Bytes of the file system that pods and logs are on.
    NodeFs,
    /// Its inodes.
    NodeInodes,
    /// Bytes of the file system that images are on, if that is another one.
    ImageFs,
    /// Its inodes.
    ImageInodes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Least {
    Amount(u64),
    /// Of the whole, in hundredths of a percent.
    Part(u64),
}

/// How much there is of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Measured {
    pub(super) signal: Signal,
    pub(super) available: u64,
    pub(super) total: u64,
}

/// A threshold that is crossed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crossed {
    pub(super) signal: Signal,
    pub(super) least: u64,
    pub(super) available: u64,
}

/// What is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    /// There is no `<` in it.
    #[error("{0:?} is no threshold: write SIGNAL<QUANTITY, as in memory.available<100Mi")]
    Form(String),
    /// Nothing of that name is measured.
    #[error(
        "there is no signal {0:?}: there are memory.available, nodefs.available, nodefs.inodesFree, \
         imagefs.available and imagefs.inodesFree"
    )]
    Signal(String),
    /// It is there twice.
    #[error("there are two for {0}")]
    Twice(String),
    /// It does not say how long it may be crossed.
    #[error("there is no grace period for the soft threshold of {0}")]
    NoPeriod(&'static str),
    /// It says how long something may be crossed that is not there.
    #[error("there is no soft threshold of {0}, only a grace period")]
    NoThreshold(String),
    /// Neither a quantity nor a percentage from 0 to 100.
    #[error("{0:?} is neither a quantity nor a percentage")]
    Quantity(String),
}

const SIGNALS: [Signal; 5] = [
    Signal::Memory,
    Signal::NodeFs,
    Signal::NodeInodes,
    Signal::ImageFs,
    Signal::ImageInodes,
];

impl Signal {
    pub(super) fn named(name: &str) -> Result<Self, ThresholdError> {
        let signal = SIGNALS.into_iter().find(|signal| signal.as_str() == name);
        signal.ok_or_else(|| ThresholdError::Signal(name.to_owned()))
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::NodeFs => "nodefs.available",
            Self::NodeInodes => "nodefs.inodesFree",
            Self::ImageFs => "imagefs.available",
            Self::ImageInodes => "imagefs.inodesFree",
        }
    }

    /// What is short, as messages call it.
    pub(super) fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::NodeFs | Self::ImageFs => "ephemeral-storage",
            Self::NodeInodes | Self::ImageInodes => "inodes",
        }
    }

    /// An amount of it, as messages show it.
    pub(super) fn show(self, amount: u64) -> String {
        let format = match self {
            Self::NodeInodes | Self::ImageInodes => Format::DecimalSi,
            Self::Memory | Self::NodeFs | Self::ImageFs => Format::BinarySi,
        };
        Quantity::whole(i64::try_from(amount).unwrap_or(i64::MAX), format).to_string()
    }
}

impl EvictionThresholds {
    /// No threshold at all.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    pub(super) fn signals(&self) -> impl Iterator<Item = Signal> {
        self.0.iter().map(|threshold| threshold.signal)
    }

    /// Those that are crossed, memory first.
    pub(super) fn crossed(&self, measured: &[Measured]) -> Vec<Crossed> {
        let mut crossed: Vec<Crossed> = self
            .0
            .iter()
            .filter_map(|threshold| {
                let signal = threshold.signal;
                let found = measured.iter().find(|found| found.signal == signal)?;
                let least = threshold.least.of(found.total);
                (found.available < least).then_some(Crossed {
                    signal,
                    least,
                    available: found.available,
                })
            })
            .collect();
        crossed.sort_by_key(|crossed| crossed.signal);
        crossed
    }
}

impl Least {
    fn of(self, total: u64) -> u64 {
        match self {
            Self::Amount(amount) => amount,
            Self::Part(part) => {
                let part = u128::from(total) * u128::from(part) / 10_000;
                u64::try_from(part).unwrap_or(u64::MAX)
            }
        }
    }
}

impl Default for EvictionThresholds {
    fn default() -> Self {
        let threshold = |signal, least| Threshold { signal, least };
        Self(vec![
            threshold(Signal::Memory, Least::Amount(100 << 20)),
            threshold(Signal::NodeFs, Least::Part(1000)),
            threshold(Signal::NodeInodes, Least::Part(500)),
            threshold(Signal::ImageFs, Least::Part(1500)),
            threshold(Signal::ImageInodes, Least::Part(500)),
        ])
    }
}

impl FromStr for EvictionThresholds {
    type Err = ThresholdError;

    fn from_str(text: &str) -> Result<Self, ThresholdError> {
        let mut all: Vec<Threshold> = Vec::new();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (name, least) = part
                .split_once('<')
                .ok_or_else(|| ThresholdError::Form(part.to_owned()))?;
            let signal = Signal::named(name)?;
            if all.iter().any(|known| known.signal == signal) {
                return Err(ThresholdError::Twice(name.to_owned()));
            }
            let least =
                Least::parse(least).ok_or_else(|| ThresholdError::Quantity(least.to_owned()))?;
            all.push(Threshold { signal, least });
        }
        Ok(Self(all))
    }
}

impl Least {
    fn parse(text: &str) -> Option<Self> {
        let Some(percent) = text.strip_suffix('%') else {
            let amount = text.parse::<Quantity>().ok()?.value();
            return Some(Self::Amount(u64::try_from(amount).ok()?));
        };
        let (whole, part) = percent.split_once('.').unwrap_or((percent, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || part.len() > 2 || !digits(whole) || !digits(part) {
            return None;
        }
        let hundredths: u64 = format!("{whole}{part:0<2}").parse().ok()?;
        (hundredths <= 10_000).then_some(Self::Part(hundredths))
    }
}

impl fmt::Display for EvictionThresholds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, threshold) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            let name = threshold.signal.as_str();
            match threshold.least {
                Least::Amount(amount) => {
                    write!(f, "{comma}{name}<{}", threshold.signal.show(amount))?;
                }
                Least::Part(part) if part % 100 == 0 => write!(f, "{comma}{name}<{}%", part / 100)?,
                Least::Part(part) => {
                    write!(f, "{comma}{name}<{}.{:02}%", part / 100, part % 100)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_written_as_for_a_kubelet() {
        let text = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,\
                    imagefs.available<15%,imagefs.inodesFree<5%";
        let default = EvictionThresholds::default();
        assert_eq!(text.parse(), Ok(default.clone()));
        assert_eq!(default.to_string(), text);
        for text in [
            "",
            "nodefs.available<0.50%",
            "memory.available<1Gi,nodefs.inodesFree<1k",
        ] {
            let parsed: EvictionThresholds = text.parse().unwrap();
            assert_eq!(parsed.to_string(), text);
        }
        for (text, part) in [
            ("memory.available", "no threshold"),
            ("memory.free<1", "no signal"),
            ("memory.available<1,memory.available<2", "two"),
            ("memory.available<x", "neither"),
            ("memory.available<-1", "neither"),
            ("nodefs.available<101%", "neither"),
            ("nodefs.available<1.234%", "neither"),
            ("nodefs.available<%", "neither"),
        ] {
            let error = text.parse::<EvictionThresholds>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_below_its_threshold_is_crossed_memory_first() {
        let thresholds: EvictionThresholds = "imagefs.available<15%,memory.available<100"
            .parse()
            .unwrap();
        let measured = |signal, available| Measured {
            signal,
            available,
            total: 1000,
        };
        let memory = |available| measured(Signal::Memory, available);
        let images = |available| measured(Signal::ImageFs, available);
        assert!(thresholds.crossed(&[memory(100), images(150)]).is_empty());
        let crossed = thresholds.crossed(&[images(149), memory(99)]);
        assert_eq!(
            crossed
                .iter()
                .map(|one| (one.signal, one.least))
                .collect::<Vec<_>>(),
            [(Signal::Memory, 100), (Signal::ImageFs, 150)]
        );
        assert!(
            thresholds.crossed(&[]).is_empty(),
            "what is not known is not short"
        );
    }
}
