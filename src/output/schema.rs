//! JSON that has to follow a schema (JSON Schema, json-schema.org), for `--schema`.
//!
//! What a model says is JSON is held to the schema here, whatever the server promised: not every
//! server enforces it, and none enforces all of it.

use std::fmt;

use serde_json::Value;

use crate::error::Error;
use crate::output::fence::unfenced;

/// Faults of a reply that are told to the model.
#[cfg(feature = "schema")]
const TOLD: usize = 8;

/// Bytes of one fault that are told: it may quote all of the reply.
#[cfg(feature = "schema")]
const LONGEST: usize = 300;

/// A schema that replies are held to.
pub struct Schema {
    json: String,
    is_strict: bool,
    #[cfg(feature = "schema")]
    validator: jsonschema::Validator,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schema").field(&self.json).finish()
    }
}

impl Schema {
    /// Reads a schema; `file` is what a message calls it.
    ///
    /// # Errors
    /// [`Error::Usage`] for what is not JSON or no schema, and where this program is built without
    /// the feature `schema`.
    pub fn parse(text: &str, file: &str) -> Result<Self, Error> {
        let value: Value = serde_json::from_str(text.trim_start_matches('\u{feff}'))
            .map_err(|error| Error::usage(format!("`--schema {file}` is not JSON: {error}")))?;
        if !value.is_object() {
            return Err(Error::usage_hint(
                format!("`--schema {file}` is no schema that a reply can follow"),
                "it has to be an object, such as {\"type\": \"object\", \"properties\": {…}}",
            ));
        }
        Self::compiled(text, &value, file)
    }

    #[cfg(feature = "schema")]
    fn compiled(text: &str, value: &Value, file: &str) -> Result<Self, Error> {
        let validator = jsonschema::validator_for(value).map_err(|error| {
            Error::usage(format!("`--schema {file}` is no JSON Schema: {error}"))
        })?;
        Ok(Self {
            json: compact(text),
            is_strict: is_strict(value),
            validator,
        })
    }

    #[cfg(not(feature = "schema"))]
    fn compiled(_: &str, _: &Value, _: &str) -> Result<Self, Error> {
        Err(Error::usage_hint(
            "`--schema`: this gptpipe was built without it",
            "build it with the cargo feature `schema`, which is on by default",
        ))
    }

    /// The schema as compact JSON.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Whether it keeps to what servers can enforce to the letter: every object closed, every
    /// member required (`OpenAI`, "Structured outputs", supported schemas).
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.is_strict
    }

    /// The JSON in a reply, compact, with its members in the order that they came in.
    ///
    /// # Errors
    /// What is wrong with it, in lines that a model can act on.
    #[cfg(feature = "schema")]
    pub fn check(&self, reply: &str) -> Result<String, String> {
        let inside = unfenced(reply);
        let value: Value = serde_json::from_str(inside.trim())
            .map_err(|error| format!("- it is not JSON: {error}"))?;
        let faults: Vec<String> = self
            .validator
            .iter_errors(&value)
            .take(TOLD)
            .map(|error| {
                let place = error.instance_path().to_string();
                let place = if place.is_empty() { "/" } else { &place };
                let mut text = format!("- at {place}: {error}");
                text.truncate(text.floor_char_boundary(LONGEST));
                text
            })
            .collect();
        if faults.is_empty() {
            Ok(compact(inside.trim()))
        } else {
            Err(faults.join("\n"))
        }
    }

    /// The JSON in a reply, compact.
    ///
    /// # Errors
    /// None can occur: without the feature there is no schema.
    #[cfg(not(feature = "schema"))]
    pub fn check(&self, reply: &str) -> Result<String, String> {
        Ok(compact(&unfenced(reply)))
    }
}

/// Valid JSON without the white space between its parts. Numbers and the order of members stay as
/// they are, which a parsed value would not keep.
fn compact(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut in_string = false;
    let mut is_escaped = false;
    for c in json.chars() {
        if in_string {
            in_string = is_escaped || c != '"';
            is_escaped = !is_escaped && c == '\\';
        } else if matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{feff}') {
            continue;
        } else {
            in_string = c == '"';
        }
        out.push(c);
    }
    out
}

/// Whether every object in the schema is closed and every member of it required.
#[cfg(feature = "schema")]
fn is_strict(schema: &Value) -> bool {
    let is_object = |schema: &Value| {
        schema.get("properties").is_some() || schema.get("type").is_some_and(|t| t == "object")
    };
    is_object(schema)
        && every(schema, &|value| {
            let Some(properties) = value.get("properties").and_then(Value::as_object) else {
                // A member that is called `type` or `properties` looks like a schema, and then
                // makes this say no where it could say yes; the server is asked for less then.
                return value.get("type").is_none_or(|kind| kind != "object");
            };
            let required = value.get("required").and_then(Value::as_array);
            value.get("additionalProperties") == Some(&Value::Bool(false))
                && required.is_some_and(|required| {
                    properties
                        .keys()
                        .all(|name| required.iter().any(|word| word == name))
                })
        })
}

/// Whether something holds for every object in a value.
#[cfg(feature = "schema")]
fn every(value: &Value, holds: &dyn Fn(&Value) -> bool) -> bool {
    match value {
        Value::Object(members) => {
            holds(value) && members.values().all(|member| every(member, holds))
        }
        Value::Array(values) => values.iter().all(|value| every(value, holds)),
        _ => true,
    }
}

#[cfg(all(test, feature = "schema"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PERSON: &str = r#"{
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
        "additionalProperties": false
    }"#;

    #[test]
    fn what_follows_it_comes_out_compact_and_in_its_own_order() {
        let schema = Schema::parse(PERSON, "person.json").unwrap();
        for reply in [
            " {\"name\": \"A \\\" b\",\n \"age\": 4} ",
            "```json\n{\"name\": \"A \\\" b\", \"age\": 4}\n```",
        ] {
            let json = schema.check(reply).unwrap();
            assert_eq!(json, "{\"name\":\"A \\\" b\",\"age\":4}");
        }
    }

    #[test]
    fn what_does_not_is_told_with_its_place() {
        let schema = Schema::parse(PERSON, "person.json").unwrap();
        let faults = schema.check("{\"name\": 4, \"age\": -1}").unwrap_err();
        assert!(faults.contains("- at /name: 4 is not of type"), "{faults}");
        assert!(faults.contains("- at /age: -1 is less than"), "{faults}");
        let faults = schema.check("Here you are: {}").unwrap_err();
        assert!(faults.starts_with("- it is not JSON: "), "{faults}");
        let long = format!("{{\"name\": [\"{}\"], \"age\": 1}}", "ü".repeat(10_000));
        assert!(schema.check(&long).unwrap_err().len() < 400);
    }

    #[test]
    fn what_is_no_schema_is_told() {
        for (text, words) in [
            ("{", "is not JSON"),
            ("[]", "no schema that a reply can follow"),
            ("{\"type\": \"strin\"}", "is no JSON Schema"),
        ] {
            let error = Schema::parse(text, "s.json").unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("s.json"), "{error}");
        }
    }

    #[test]
    fn strict_is_asked_for_where_it_can_be_had() {
        let is_strict = |text: &str| Schema::parse(text, "s").unwrap().is_strict();
        assert!(is_strict(PERSON));
        assert!(!is_strict(&PERSON.replace("\"age\"],", "\"age2\"],")));
        assert!(!is_strict(&PERSON.replace("false", "true")));
        assert!(!is_strict(r#"{"type": "array"}"#));
        assert!(!is_strict(r#"{"type": "object"}"#));
    }

    proptest! {
        #[test]
        fn compact_json_means_the_same(
            text in "[ \\\\\"a日\n]{0,12}", number in any::<i64>(), key in "[a-z \"]{0,4}",
        ) {
            let value = serde_json::json!({ key: [text, number, null, {"x": true}] });
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(compact(&pretty), value.to_string());
        }
    }
}
