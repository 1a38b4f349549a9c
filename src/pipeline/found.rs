//! What is known about pieces of the input before anybody is asked: looked up
//! many at a time, and handed on as far as it is known together.

use crate::api::reply::Reply;
use crate::input::reader::Piece;
use crate::pipeline::recall::Recall;
use crate::store::cache::{Entry, Key};

/// Bytes of replies that are handed on even if more are remembered.
const GATHERED: usize = 64 * 1024;

/// Pieces of the input that follow each other, and what is known about them.
#[derive(Debug)]
pub enum Found {
    /// Nothing is to be asked.
    Hits(Vec<Hit>),
    /// It has to be asked about.
    Miss(Miss),
}

/// A piece that needs no request.
#[derive(Debug)]
pub struct Hit {
    /// The piece.
    pub piece: Piece,
    /// Its reply; none for white space alone.
    pub reply: Option<Reply>,
}

/// A piece of which no reply is known.
#[derive(Debug)]
pub struct Miss {
    /// The piece.
    pub piece: Piece,
    /// What the cache calls it.
    pub key: Key,
}

/// Looks pieces up, away from the runtime, and hands on what is known about them, a miss at once.
/// `send` says whether anybody still takes it, and so does this.
pub fn look_up(pieces: Vec<Piece>, recall: &Recall, mut send: impl FnMut(Found) -> bool) -> bool {
    let keys: Vec<Key> = pieces
        .iter()
        .filter(|piece| !piece.chunk.text.is_empty())
        .map(|piece| recall.key(&piece.chunk.text, &piece.chunk.context))
        .collect();
    let mut left = keys.as_slice();
    let mut entries = Vec::new().into_iter();
    let mut hits = Vec::new();
    let mut bytes = 0;
    for piece in pieces {
        let chunk = &piece.chunk;
        let Some((&key, later)) = left.split_first().filter(|_| !chunk.text.is_empty()) else {
            hits.push(Hit { piece, reply: None });
            continue;
        };
        if entries.len() == 0 {
            // All that is known of those before goes first: to send it can take long, and nothing
            // may be read meanwhile.
            if !hits.is_empty() && bytes >= GATHERED {
                bytes = 0;
                if !send(Found::Hits(std::mem::take(&mut hits))) {
                    return false;
                }
            }
            entries = recall.entries(left, GATHERED - bytes).into_iter();
        }
        left = later;
        let reply = match entries.next().flatten() {
            Some(Entry::Reply(reply)) => Some(reply),
            Some(Entry::Split { end, start }) => {
                recall.parts(&chunk.text, &chunk.context, end, start)
            }
            None => None,
        };
        if let Some(reply) = reply {
            bytes += reply.text.len();
            let reply = Some(reply);
            hits.push(Hit { piece, reply });
            continue;
        }
        bytes = 0;
        let is_wanted = (hits.is_empty() || send(Found::Hits(std::mem::take(&mut hits))))
            && send(Found::Miss(Miss { piece, key }));
        if !is_wanted {
            return false;
        }
        recall.expect();
    }
    hits.is_empty() || send(Found::Hits(hits))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::api::event::Api;
    use crate::api::identity::Identity;
    use crate::api::reply::Finish;
    use crate::api::request::RequestOptions;
    use crate::input::chunk::Chunk;
    use crate::store::cache::{Cache, CacheOptions, Place as CachePlace};

    /// A memory in which replies are what their texts ask for.
    fn recall(entries: &[(&str, Entry)]) -> Recall {
        let (cache, _) = Cache::open(CacheOptions {
            place: CachePlace::Memory,
            is_named: false,
            ttl: Duration::from_hours(24),
            is_refresh: false,
            max_bytes: 16 << 20,
        })
        .unwrap();
        let options = RequestOptions {
            api: Api::Chat,
            model: "m".to_owned(),
            system: None,
            prompt: "p".to_owned(),
            is_prompt_alone: false,
            params: Vec::new(),
            max_output: None,
            wants_usage: false,
            schema: None,
        };
        let recall = Recall {
            identity: Identity::new("https://h/v1", &options),
            cache: Some(cache.clone()),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        for (text, entry) in entries {
            assert!(runtime.block_on(cache.store(recall.key(text, ""), entry.clone())));
        }
        recall
    }

    fn reply(text: &str) -> Entry {
        Entry::Reply(Reply {
            text: text.to_owned(),
            finish: Finish::Stop,
            ..Reply::default()
        })
    }

    /// What is handed on for these texts, each part by itself; a gap is an empty text.
    fn parts(recall: &Recall, texts: &[&str]) -> Vec<Vec<String>> {
        let file: Arc<str> = Arc::from("f");
        let pieces = texts.iter().map(|text| Piece {
            file: Arc::clone(&file),
            chunk: Chunk {
                gap: "\n".to_owned(),
                text: (*text).to_owned(),
                ..Chunk::default()
            },
            is_end: false,
        });
        let mut parts = Vec::new();
        let is_wanted = look_up(pieces.collect(), recall, |found| {
            parts.push(match found {
                Found::Hits(hits) => hits
                    .into_iter()
                    .map(|hit| hit.reply.map_or(hit.piece.chunk.gap, |reply| reply.text))
                    .collect(),
                Found::Miss(miss) => vec![format!("ask {}", miss.piece.chunk.text)],
            });
            true
        });
        assert!(is_wanted);
        parts
    }

    #[test]
    fn what_is_known_goes_together_and_a_miss_alone_in_order() {
        let split = |end, start| Entry::Split { end, start };
        let recall = recall(&[
            ("a", reply("A")),
            ("b", reply("B")),
            ("a b", split(1, 2)),
            ("a c", split(1, 2)),
        ]);
        assert_eq!(parts(&recall, &[]), Vec::<Vec<String>>::new());
        assert_eq!(
            parts(&recall, &["", "a", "a b", "b"]),
            [["\n", "A", "A B", "B"]]
        );
        assert_eq!(
            parts(&recall, &["b", "x", "y", "", "a", "a c", "b"]),
            [
                vec!["B"],
                vec!["ask x"],
                vec!["ask y"],
                vec!["\n", "A"],
                vec!["ask a c"],
                vec!["B"],
            ]
        );
        let nothing = Recall {
            cache: None,
            ..recall
        };
        assert_eq!(
            parts(&nothing, &["a", "", "b"]),
            [["ask a"], ["\n"], ["ask b"]]
        );
    }

    #[test]
    fn not_more_is_gathered_than_a_write_takes() {
        let long = "long ".repeat(GATHERED / 10);
        let texts: Vec<String> = (0..9).map(|number| number.to_string()).collect();
        let entries: Vec<_> = texts
            .iter()
            .map(|text| (text.as_str(), reply(&long)))
            .collect();
        let recall = recall(&entries);
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let together: Vec<usize> = parts(&recall, &texts).iter().map(Vec::len).collect();
        assert!(
            together.iter().all(|count| (1..=3).contains(count)),
            "{together:?}"
        );
        assert_eq!(together.iter().sum::<usize>(), texts.len());
    }

    #[test]
    fn who_wants_no_more_is_not_asked_again() {
        let recall = recall(&[("a", reply("A"))]);
        let piece = |text: &str| Piece {
            file: Arc::from("f"),
            chunk: Chunk {
                text: text.to_owned(),
                ..Chunk::default()
            },
            is_end: false,
        };
        let mut calls = 0;
        let is_wanted = look_up(vec![piece("a"), piece("x"), piece("a")], &recall, |_| {
            calls += 1;
            false
        });
        assert_eq!((is_wanted, calls), (false, 1));
    }
}
