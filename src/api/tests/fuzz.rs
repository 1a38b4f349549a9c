//! Damage of every kind: whatever bytes come, nothing panics and nothing broken passes for whole.
//!
//! `GPTPIPE_FUZZ` is the number of cases of each law, `GPTPIPE_SEED` begins them; a failure tells
//! its seed, which alone makes that case again.

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::super::event::{Api, End};
use super::super::failure::Verdict;
use super::super::fault::{from_event, from_response};
use super::super::reply::Finish;
use super::super::retry_after::retry_after;
use super::decode;
use crate::api::plain::decode_plain;

/// Runs a law over so many seeds.
#[allow(clippy::print_stderr, reason = "a failure has to tell its seed")]
fn cases(law: impl Fn(&mut Random) + std::panic::RefUnwindSafe) {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let count = number("GPTPIPE_FUZZ").unwrap_or(20_000);
    let first = number("GPTPIPE_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.map_or(0, |now| now.as_secs() << 24)
    });
    for seed in first..first.saturating_add(count) {
        let case = || law(&mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
        if let Err(panic) = std::panic::catch_unwind(case) {
            eprintln!("GPTPIPE_FUZZ=1 GPTPIPE_SEED={seed} fails");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Xorshift64* (Vigna 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or(0) % end.max(1)
    }

    fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }

    /// A reply of some pieces.
    fn pieces(&mut self) -> Vec<String> {
        let parts = [
            "word ",
            "日本",
            "\n",
            "\"",
            "\\",
            "👩🏽",
            "data: ",
            "[DONE]",
            "\u{2028}",
            "{",
            "\t",
            "é",
            "\u{1}",
            ": ",
            "finish_reason",
        ];
        (0..self.below(6))
            .map(|_| (0..self.below(4)).map(|_| self.pick(&parts)).collect())
            .collect()
    }

    /// A whole stream of these pieces, in one of the shapes that servers have.
    fn stream(&mut self, api: Api, pieces: &[String]) -> Vec<u8> {
        let mut events: Vec<String> = Vec::new();
        match api {
            Api::Chat => {
                let delta = |delta: serde_json::Value, reason: Option<&str>| {
                    json!({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
                        .to_string()
                };
                if self.below(2) == 0 {
                    events.push(delta(json!({"role": "assistant", "content": null}), None));
                }
                events.extend(
                    pieces
                        .iter()
                        .map(|text| delta(json!({"content": text}), None)),
                );
                events.push(delta(json!({}), Some("stop")));
                if self.below(2) == 0 {
                    events.push(
                        json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
                            .to_string(),
                    );
                }
                events.push("[DONE]".to_owned());
            }
            Api::Responses => {
                events
                    .push(json!({"type": "response.created", "response": {"id": "r"}}).to_string());
                events.extend(pieces.iter().map(|text| {
                    json!({"type": "response.output_text.delta", "delta": text}).to_string()
                }));
                let content = json!([{"type": "output_text", "text": pieces.concat()}]);
                let response = json!({
                    "id": "r", "status": "completed", "output": [{"type": "message", "content": content}],
                });
                events
                    .push(json!({"type": "response.completed", "response": response}).to_string());
            }
        }
        let end = self.pick(&["\n", "\r\n", "\r"]);
        let mut text = String::from(self.pick(&["", "\u{feff}"]));
        for event in events {
            text += self.pick(&["", "", ": ping\n\n", "id: 7\n", "retry: 10\n"]);
            text += self.pick(&["data: ", "data:"]);
            text += &event;
            text += end;
            text += end;
        }
        text.into_bytes()
    }

    /// Bytes cut into reads.
    fn reads<'a>(&mut self, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut reads = Vec::new();
        while !bytes.is_empty() {
            let (read, rest) = bytes.split_at((1 + self.below(200)).min(bytes.len()));
            reads.push(read);
            bytes = rest;
        }
        reads
    }

    /// One of many ways in which bytes get damaged.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let (a, b) = (self.below(bytes.len() + 1), self.below(bytes.len() + 1));
            let (from, to) = (a.min(b), a.max(b).min(a.min(b) + 40));
            match self.below(6) {
                0 => bytes.truncate(a),
                1 => drop(bytes.drain(from..to)),
                2 => {
                    let again = bytes[from..to].to_vec();
                    bytes.splice(from..from, again);
                }
                3 => {
                    let noise = (0..self.below(9)).map(|_| self.next().to_le_bytes()[0]);
                    let noise: Vec<u8> = noise.collect();
                    bytes.splice(a..a, noise);
                }
                4 => {
                    let words: [&[u8]; 9] = [
                        b"\n\n",
                        b"data: ",
                        b"event: error\n",
                        b"{",
                        b"}",
                        b"\"stop\"",
                        b"null",
                        b"\\ud83d",
                        b"[DONE]",
                    ];
                    let word = self.pick(&words).to_vec();
                    bytes.splice(a..a, word);
                }
                _ => {
                    if let Some(byte) = bytes.get_mut(a) {
                        *byte ^= 1 << self.below(8);
                    }
                }
            }
        }
    }
}

fn api(random: &mut Random) -> Api {
    if random.below(2) == 0 {
        Api::Chat
    } else {
        Api::Responses
    }
}

#[test]
fn a_stream_cut_anywhere_is_whole_or_none() {
    cases(|random| {
        let (api, pieces) = (api(random), random.pieces());
        let whole = random.stream(api, &pieces);
        let cut = &whole[..random.below(whole.len() + 1)];
        let reads = random.reads(cut);
        match decode(api, End::FinishReason, &reads, None) {
            Ok(reply) => assert_eq!(reply.text, pieces.concat()),
            Err(failure) => {
                assert!(cut.len() < whole.len(), "{failure}");
                assert_eq!(failure.verdict(), Verdict::Transient, "{failure}");
            }
        }
    });
}

#[test]
fn a_damaged_stream_panics_nobody_and_is_whole_only_with_a_reason() {
    cases(|random| {
        let (api, pieces) = (api(random), random.pieces());
        let mut bytes = random.stream(api, &pieces);
        random.damage(&mut bytes);
        let one = decode(api, End::FinishReason, &[&bytes], None);
        let reads = random.reads(&bytes);
        let other = decode(api, End::FinishReason, &reads, None);
        assert_eq!(one, other, "however the reads cut it");
        if let Ok(reply) = one {
            assert_eq!(reply.finish, Finish::Stop);
        }
    });
}

#[test]
fn a_damaged_document_panics_nobody() {
    cases(|random| {
        let (api, text) = (api(random), random.pieces().concat());
        let whole = match api {
            Api::Chat => {
                json!({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})
            }
            Api::Responses => json!({
                "status": "completed",
                "output": [{"type": "message", "content": [{"type": "output_text", "text": text}]}],
            }),
        };
        let mut bytes = whole.to_string().into_bytes();
        assert_eq!(decode_plain(api, &bytes).map(|reply| reply.text), Ok(text));
        let length = random.below(bytes.len());
        assert!(
            decode_plain(api, &bytes[..length]).is_err(),
            "cut at {length}"
        );
        random.damage(&mut bytes);
        if let Ok(reply) = decode_plain(api, &bytes) {
            assert_eq!(reply.finish, Finish::Stop);
        }
    });
}

#[test]
fn a_damaged_error_panics_nobody_and_is_no_success() {
    cases(|random| {
        let mut body = json!({"error": {
            "message": random.pieces().concat(), "type": "rate_limit_error", "code": 429,
            "details": [{"retryDelay": "7s", "reason": "X"}], "metadata": {"raw": "{}"},
        }})
        .to_string()
        .into_bytes();
        random.damage(&mut body);
        let status = 300 + u16::try_from(random.below(300)).unwrap_or(0);
        let failure = from_response(status, &|_| None, &body);
        assert!(!failure.to_string().contains(char::is_control), "{failure}");
        let _ = from_event(&String::from_utf8_lossy(&body));
    });
}

#[test]
fn no_wait_is_absurd() {
    const DAY: Duration = Duration::from_hours(24);
    let parts = [
        "1",
        "9",
        "0",
        "-",
        "+",
        ".",
        "e",
        "E",
        "inf",
        "nan",
        "s",
        "ms",
        "m",
        "h",
        " ",
        "Wed, ",
        "25 Nov 2026 ",
        "01:02:03 ",
        "GMT",
        "99999999999999999999",
        "\u{663}",
        "x",
        ",",
        ";",
    ];
    let names = [
        "retry-after",
        "retry-after-ms",
        "llm_provider-retry-after",
        "x-ratelimit-reset-requests",
        "x-ratelimit-remaining-requests",
    ];
    cases(|random| {
        let headers: Vec<(&str, String)> = (0..=random.below(3))
            .map(|_| {
                let value = (0..random.below(6)).map(|_| random.pick(&parts)).collect();
                (random.pick(&names), value)
            })
            .collect();
        let header = |name: &str| {
            let found = headers.iter().find(|(header, _)| *header == name);
            found.map(|(_, value)| value.clone())
        };
        if let Some(wait) = retry_after(&header, SystemTime::now()) {
            assert!(wait <= 400 * DAY, "{headers:?}: {wait:?}");
        }
    });
}
