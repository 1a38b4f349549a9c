//! What makes two requests the same: a hash of all that determines the reply.
//!
//! The address, the model, the messages and the parameters are in it. The key
//! is not, nor the headers, which may hold one; nor whether the reply is
//! streamed, nor how long it may get: a whole reply is whole under any limit.

use std::collections::BTreeMap;

use blake3::Hasher;
use serde_json::Value;

use crate::api::event::Api;
use crate::api::request::{BOUNDS, RequestOptions, system_text};

/// Says what the hash is of; another word for another form of it.
const DOMAIN: &str = "gptpipe 2026-11 reply";

/// What the requests of a run have in common, hashed.
#[derive(Clone, Debug)]
pub struct Identity(Hasher);

impl Identity {
    /// Hashes all but the chunk. `url` is the address that requests go to.
    #[must_use]
    pub fn new(url: &str, options: &RequestOptions) -> Self {
        let mut hasher = Hasher::new_derive_key(DOMAIN);
        let api = match options.api {
            Api::Chat => "chat",
            Api::Responses => "responses",
        };
        let alone = if options.is_prompt_alone { "alone" } else { "" };
        // With the framing in it, so that another version's other words are not taken for these.
        let system = system_text(options);
        let parts = [url, api, &options.model, &system, alone, &options.prompt];
        for part in parts {
            add(&mut hasher, part);
        }
        let bound = options.max_output.as_ref().map(|(name, _)| name.as_str());
        // Of two with one name the later is sent; their order means nothing.
        let params: BTreeMap<&str, &str> = options
            .params
            .iter()
            .map(|param| (param.name.as_str(), param.json.as_str()))
            .filter(|(name, _)| {
                *name != "stream_options" && !BOUNDS.contains(name) && bound != Some(name)
            })
            .collect();
        for (name, json) in params {
            add(&mut hasher, name);
            // Blanks and the order of members mean nothing either.
            match serde_json::from_str::<Value>(json) {
                Ok(value) => add(&mut hasher, &value.to_string()),
                Err(_) => add(&mut hasher, json),
            }
        }
        if let Some(schema) = &options.schema {
            // What was remembered without it was not held to it.
            // Three parts, where fields have two: no field looks like it.
            for part in ["", "schema", &schema.json] {
                add(&mut hasher, part);
            }
        }
        Self(hasher)
    }

    /// The hash of a request: a chunk, and the background that is shown with it.
    #[must_use]
    pub fn of(&self, text: &str, context: &str) -> [u8; 32] {
        let mut hasher = self.0.clone();
        add(&mut hasher, context);
        add(&mut hasher, text);
        *hasher.finalize().as_bytes()
    }
}

/// Adds a part so that no two lists of parts look alike.
fn add(hasher: &mut Hasher, part: &str) {
    hasher.update(&(part.len() as u64).to_le_bytes());
    hasher.update(part.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::request::{Param, SchemaMode, SchemaRequest};

    fn options() -> RequestOptions {
        RequestOptions {
            api: Api::Chat,
            model: "m".to_owned(),
            system: None,
            prompt: "p".to_owned(),
            is_prompt_alone: false,
            params: Vec::new(),
            max_output: None,
            wants_usage: false,
            schema: None,
        }
    }

    fn param(name: &str, json: &str) -> Param {
        Param {
            name: name.to_owned(),
            json: json.to_owned(),
        }
    }

    fn schema(json: &str) -> SchemaRequest {
        SchemaRequest {
            json: json.to_owned(),
            is_strict: false,
            mode: SchemaMode::Native,
        }
    }

    fn of(options: &RequestOptions) -> [u8; 32] {
        Identity::new("https://h/v1", options).of("text", "")
    }

    #[test]
    fn everything_that_determines_the_reply_is_told_apart() {
        let with = |change: fn(&mut RequestOptions)| {
            let mut options = options();
            change(&mut options);
            of(&options)
        };
        let mut all = vec![
            of(&options()),
            with(|o| o.api = Api::Responses),
            with(|o| o.model = "n".to_owned()),
            with(|o| o.system = Some(String::new())),
            with(|o| o.system = Some("p".to_owned())),
            with(|o| o.prompt = "q".to_owned()),
            with(|o| o.is_prompt_alone = true),
            with(|o| o.params = vec![param("temperature", "0")]),
            with(|o| o.params = vec![param("temperature", "1")]),
            with(|o| o.params = vec![param("top_p", "1")]),
            with(|o| o.schema = Some(schema("{}"))),
            with(|o| o.schema = Some(schema("{\"type\":\"object\"}"))),
            Identity::new("https://g/v1", &options()).of("text", ""),
            Identity::new("https://h/v1", &options()).of("texts", ""),
            Identity::new("https://h/v1", &options()).of("text", "before"),
            Identity::new("https://h/v1", &options()).of("", "text"),
        ];
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn what_does_not_determine_it_makes_no_difference() {
        let same = |change: fn(&mut RequestOptions)| {
            let mut changed = options();
            changed.params = vec![param("a", "{\"x\":1, \"b\":[2]}"), param("t", "1")];
            let before = of(&changed);
            change(&mut changed);
            assert_eq!(of(&changed), before);
        };
        same(|o| o.wants_usage = true);
        same(|o| o.max_output = Some(("max_tokens".to_owned(), 9)));
        same(|o| {
            o.max_output = Some(("limit".to_owned(), 9));
            o.params.push(param("limit", "3"));
        });
        same(|o| o.params.push(param("max_completion_tokens", "3")));
        same(|o| o.params.push(param("stream_options", "{}")));
        same(|o| o.params.reverse());
        same(|o| o.params[0].json = "{ \"b\": [2], \"x\": 1 }".to_owned());
        same(|o| o.params.insert(0, param("t", "7")));
    }
}
