//! The options of `gptpipe usage` and `gptpipe metrics`, which are none of a run.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use crate::cli::args::{parse_duration, parse_word};
use crate::store::usage::By;

/// How `gptpipe usage` writes what it tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UsageFormat {
    /// A table.
    #[default]
    Text,
    /// A line of JSON for each group.
    Jsonl,
}

/// Tell what requests there were and what they cost.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(name = "gptpipe usage", help_triggers("-h", "--help"))]
pub struct UsageCli {
    /// only of the last DUR, such as 7d (all that is kept)
    #[argh(option, arg_name = "DUR", from_str_fn(parse_duration))]
    pub since: Option<Duration>,

    /// a row for each model, day, profile or host (model)
    #[argh(option, arg_name = "WHAT", from_str_fn(parse_usage_by))]
    pub by: Option<By>,

    /// text or jsonl (text)
    #[argh(option, arg_name = "FORMAT", from_str_fn(parse_usage_format))]
    pub format: Option<UsageFormat>,

    /// a line of JSON for each request
    #[argh(switch)]
    pub audit: bool,
}

/// Print the totals as Prometheus reads them.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(name = "gptpipe metrics", help_triggers("-h", "--help"))]
pub struct MetricsCli {
    /// serve them under /metrics, such as at 127.0.0.1:9464
    #[argh(option, arg_name = "ADDR", from_str_fn(parse_listen))]
    pub listen: Option<SocketAddr>,
}

fn parse_usage_by(value: &str) -> Result<By, String> {
    let words = [By::Model, By::Day, By::Profile, By::Host].map(|by| (by.name(), by));
    parse_word(value, &words)
}

fn parse_usage_format(value: &str) -> Result<UsageFormat, String> {
    parse_word(
        value,
        &[("text", UsageFormat::Text), ("jsonl", UsageFormat::Jsonl)],
    )
}

/// Reads an address; a port alone is one of this machine.
fn parse_listen(value: &str) -> Result<SocketAddr, String> {
    let port = value.strip_prefix(':').unwrap_or(value);
    if let Ok(port) = port.parse() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    let spelled = value.replace("localhost:", "127.0.0.1:");
    spelled
        .parse()
        .map_err(|_| "takes an address and a port, such as 127.0.0.1:9464".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_this_machine_unless_another_is_named() {
        for (typed, address) in [
            ("9464", "127.0.0.1:9464"),
            (":9464", "127.0.0.1:9464"),
            ("localhost:1", "127.0.0.1:1"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(parse_listen(typed).unwrap().to_string(), address);
        }
        for wrong in ["", ":", "host:80", "127.0.0.1", "99999"] {
            assert!(parse_listen(wrong).is_err(), "{wrong}");
        }
    }
}
