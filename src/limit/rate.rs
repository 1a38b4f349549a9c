//! Rates as people write them, and the slots that they leave.
//!
//! Evenly spaced: a request has its slot when the one before it is so long ago,
//! and no window of the unit has more than the rate. This is the generic cell
//! rate algorithm (ITU-T I.371), which needs one number of memory: when the next
//! slot is. The number lives where all processes find it (`store::slots`).

use std::time::Duration;

/// Slots are further apart than the rate asks by one part in this many. A request that is late by
/// less than this part of the unit then still leaves no window with more than the rate; clocks,
/// schedulers and networks are late by milliseconds.
const SLACK: u32 = 200;

/// So many in so long, evenly spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests or tokens.
    pub count: u32,
    /// In this time.
    pub per: Duration,
    /// How many may come at once after a pause; 1 for none.
    pub burst: u32,
}

impl Rate {
    /// The time from slot to slot, of so many units at once.
    #[must_use]
    pub fn spacing(&self, units: u32) -> Duration {
        let nanos = self.per.as_nanos() * u128::from(units) / u128::from(self.count.max(1));
        let slack = nanos / u128::from(SLACK);
        u64::try_from(nanos + slack).map_or(Duration::MAX, Duration::from_nanos)
    }

    /// How far ahead of its slot a request may be: the room for a burst.
    #[must_use]
    pub fn tolerance(&self) -> Duration {
        self.spacing(1).saturating_mul(self.burst.max(1) - 1)
    }
}

/// Reads `5/s`, `100/m`, `1000/h`, and with a burst `5/s:10`.
///
/// # Errors
/// What a rate looks like.
pub fn parse_rate(value: &str) -> Result<Rate, String> {
    let what = || "takes a rate, such as 5/s, 100/m or 1000/h, or with a burst 5/s:10".to_owned();
    let (rate, burst) = match value.split_once(':') {
        Some((rate, burst)) => (rate, burst.parse().map_err(|_| what())?),
        None => (value, 1),
    };
    let (count, unit) = rate.split_once('/').ok_or_else(what)?;
    let per = match unit {
        "s" | "sec" | "second" => Duration::from_secs(1),
        "m" | "min" | "minute" => Duration::from_mins(1),
        "h" | "hour" => Duration::from_hours(1),
        _ => return Err(what()),
    };
    let count: u32 = count.parse().map_err(|_| what())?;
    if count == 0 || burst == 0 {
        return Err(what());
    }
    Ok(Rate { count, per, burst })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_rates_as_people_write_them() {
        let rate = |count, secs, burst| Rate {
            count,
            per: Duration::from_secs(secs),
            burst,
        };
        assert_eq!(parse_rate("5/s"), Ok(rate(5, 1, 1)));
        assert_eq!(parse_rate("100/m"), Ok(rate(100, 60, 1)));
        assert_eq!(parse_rate("1000/h"), Ok(rate(1000, 3600, 1)));
        assert_eq!(parse_rate("5/s:10"), Ok(rate(5, 1, 10)));
        for wrong in [
            "",
            "5",
            "0/s",
            "-1/s",
            "5/d",
            "5/s:0",
            "5/s:x",
            "1.5/s",
            "/s",
            "9999999999/s",
        ] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_window_has_more_than_the_rate_though_some_are_late() {
        for text in ["5/s", "50/s", "500/s", "7/m", "3/h", "60000/m"] {
            let rate = parse_rate(text).unwrap();
            let spacing = rate.spacing(1);
            // So many slots and one more never fit the unit, even if the first is late.
            let late = rate.per / 250;
            assert!(
                spacing * rate.count + Duration::from_micros(1) > rate.per + late,
                "{text}"
            );
            // And what is achieved is within a hundredth of what was asked.
            assert!(spacing * rate.count < rate.per + rate.per / 100, "{text}");
            assert_eq!(rate.tolerance(), Duration::ZERO);
        }
        assert_eq!(
            parse_rate("10/s:5").unwrap().tolerance(),
            Duration::from_millis(402)
        );
    }
}
