//! How long a slow answer takes: a number of the message decides, so that a run
//! can be repeated and its ideal worked out.

use std::time::Duration;

use crate::prose::Random;

/// How the times of answers are spread.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// 20 to 2,000 ms, each as likely.
    Even,
    /// Always so many milliseconds.
    Constant(u64),
    /// So many milliseconds in the middle, a third more or less for most.
    LogNormal(u64),
    /// So many milliseconds for half of them, and for one in a hundred ten times as long and more.
    HeavyTail(u64),
    /// What was measured for requests by their size: P50, P95 and P99 of 320, 480 and 520 ms for a
    /// thousand characters, 850, 1,200 and 1,500 for ten thousand, 4,100, 6,800 and 7,500 for a
    /// hundred thousand.
    Measured,
}

impl Shape {
    /// The shape as a part of a path.
    pub(crate) fn path(self) -> String {
        match self {
            Self::Even => "even-0".to_owned(),
            Self::Constant(ms) => format!("constant-{ms}"),
            Self::LogNormal(ms) => format!("lognormal-{ms}"),
            Self::HeavyTail(ms) => format!("heavy-{ms}"),
            Self::Measured => "measured-0".to_owned(),
        }
    }

    pub(crate) fn parse(text: &str) -> Self {
        let (name, number) = text.split_once('-').unwrap_or((text, ""));
        let number = number.parse().unwrap_or_default();
        match name {
            "constant" => Self::Constant(number),
            "lognormal" => Self::LogNormal(number),
            "heavy" => Self::HeavyTail(number),
            "measured" => Self::Measured,
            _ => Self::Even,
        }
    }

    /// The time that the answer to message `number` takes, which has so many characters.
    #[expect(clippy::cast_precision_loss, reason = "delays are far below 2^53 µs")]
    pub(crate) fn delay(self, seed: u64, number: u64, characters: usize) -> Duration {
        let mut random = Random(seed ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93));
        let mut part = || (random.next() >> 11) as f64 / (1_u64 << 53) as f64;
        let ms = match self {
            Self::Even => 20.0 + part() * 1980.0,
            Self::Constant(ms) => ms as f64,
            Self::LogNormal(ms) => {
                // The sum of twelve even parts is as good as normal.
                let normal: f64 = (0..12).map(|_| part()).sum::<f64>() - 6.0;
                ms as f64 * (normal * 0.3).exp()
            }
            // Pareto with an index of one and a half: P50 is 1.6 of the least, P99 21.5.
            Self::HeavyTail(ms) => ms as f64 / 1.6 * (1.0 - part()).max(1e-3).powf(-1.0 / 1.5),
            Self::Measured => {
                let known = [
                    [320.0, 480.0, 520.0],
                    [850.0, 1200.0, 1500.0],
                    [4100.0, 6800.0, 7500.0],
                ];
                let size = (characters.max(1000) as f64 / 1000.0).log10().min(2.0);
                let below = usize::from(size >= 1.0);
                let share = size - if size < 1.0 { 0.0 } else { 1.0 };
                let at = |point: usize| {
                    let [low, high] = [known[below][point], known[below + 1][point]];
                    low * f64::powf(high / low, share)
                };
                // Straight between the known points, and from half of the middle on.
                match part() {
                    part @ 0.0..0.5 => at(0) * (0.5 + part),
                    part @ 0.5..0.95 => at(0) + (at(1) - at(0)) * (part - 0.5) / 0.45,
                    part => at(1) + (at(2) - at(1)) * (part - 0.95) / 0.04,
                }
            }
        };
        Duration::from_secs_f64(ms / 1000.0)
    }
}
