//! A token: as the server gives it (RFC 6749, section 5.1), and as it is kept.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};

use crate::secret::secret::Secret;

/// A token is not used in its last seconds: so long it may be on its way.
const MARGIN: u64 = 60;

/// Of a short life not more than this part is given up.
const MARGIN_PART: u64 = 5;

/// No type of token has a longer name.
const LONGEST_TYPE: usize = 16;

/// An access token with what belongs to it.
#[derive(Clone, Debug)]
pub struct Token {
    /// What goes with a request.
    pub access: Secret,
    /// What gets the next one, if there is one.
    pub refresh: Option<Secret>,
    /// When it ends, in seconds since 1970; none: that is not known.
    pub expires_at: Option<u64>,
    /// How many seconds it was given.
    pub lifetime: Option<u64>,
}

impl Token {
    /// Reads the server's answer; `now` is in seconds since 1970.
    ///
    /// # Errors
    /// Why it is none that can be used, without a word of what stands in it.
    pub fn read(body: &[u8], now: u64) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Wire {
            access_token: String,
            token_type: Option<String>,
            #[serde(default, deserialize_with = "seconds")]
            expires_in: Option<u64>,
            refresh_token: Option<String>,
        }
        let wire: Wire = serde_json::from_slice(body)
            .map_err(|_| "a field is missing or of another type".to_owned())?;
        // The word is written in every way (RFC 6749, section 5.1: its case means nothing).
        if let Some(kind) = &wire.token_type
            && !kind.eq_ignore_ascii_case("bearer")
        {
            // Only what can be nothing but a type's name is repeated (RFC 6749, section 8.1).
            let is_name = kind.len() <= LONGEST_TYPE
                && kind
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
            return Err(if is_name {
                format!("it is of the type `{kind}`, and only `Bearer` is known")
            } else {
                "it is of an odd type, and only `Bearer` is known".to_owned()
            });
        }
        let access = Secret::new(wire.access_token).ok_or("the access token is empty")?;
        // It has to fit into a header (RFC 6749, appendix A.12).
        if !access
            .expose()
            .bytes()
            .all(|byte| (b' '..=b'~').contains(&byte))
        {
            return Err("the access token has characters in it that no token has".to_owned());
        }
        Ok(Self {
            access,
            refresh: wire.refresh_token.and_then(Secret::new),
            expires_at: wire.expires_in.map(|seconds| now.saturating_add(seconds)),
            lifetime: wire.expires_in,
        })
    }

    /// Whether it can be sent at this time, as far as is known.
    #[must_use]
    pub fn is_fresh(&self, now: u64) -> bool {
        let Some(end) = self.expires_at else {
            return true;
        };
        let lifetime = self.lifetime.unwrap_or(0);
        // A clock that was set back would have it last longer than it was given.
        let left = end.saturating_sub(now).min(lifetime);
        left > MARGIN.min(lifetime / MARGIN_PART)
    }

    /// Writes it down; `settings` tells what it was got with.
    #[must_use]
    pub fn store(&self, settings: &str) -> Option<Secret> {
        let kept = Kept {
            settings: settings.into(),
            access_token: self.access.expose().into(),
            refresh_token: self.refresh.as_ref().map(|token| token.expose().into()),
            expires_at: self.expires_at,
            lifetime: self.lifetime,
        };
        serde_json::to_string(&kept).ok().and_then(Secret::new)
    }

    /// Reads what was written down. None: it is something else, or was got with other settings.
    #[must_use]
    pub fn load(text: &Secret, settings: &str) -> Option<Self> {
        let kept: Kept<'_> = serde_json::from_str(text.expose()).ok()?;
        let secret = |text: Cow<'_, str>| Secret::new(text.into_owned());
        (kept.settings == settings).then_some(())?;
        Some(Self {
            access: secret(kept.access_token)?,
            refresh: kept.refresh_token.and_then(secret),
            expires_at: kept.expires_at,
            lifetime: kept.lifetime,
        })
    }
}

/// A token as it is kept.
#[derive(Deserialize, Serialize)]
struct Kept<'a> {
    settings: Cow<'a, str>,
    #[serde(borrow)]
    access_token: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    refresh_token: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lifetime: Option<u64>,
}

/// Seconds since 1970, by this machine's clock.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// Seconds as a number, or as servers write it that take it for a string. Part of a second is none.
pub(super) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Wire {
        Whole(u64),
        Number(f64),
        Text(String),
        Nothing(()),
    }
    let number = match Wire::deserialize(deserializer)? {
        Wire::Whole(seconds) => return Ok(Some(seconds)),
        Wire::Nothing(()) => return Ok(None),
        Wire::Number(number) => number,
        Wire::Text(text) => text.trim().parse().map_err(D::Error::custom)?,
    };
    // What has run out already, or will in no lifetime, is told by the ends of the range.
    Ok(Some(
        Duration::try_from_secs_f64(number.max(0.0)).map_or(u64::MAX, |time| time.as_secs()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Token, String> {
        Token::read(body.as_bytes(), 1000)
    }

    #[test]
    fn reads_what_servers_send() {
        let token = read(r#"{"access_token":"a","token_type":"bearer","expires_in":3600,"refresh_token":"r","x":[1]}"#).unwrap();
        assert_eq!((token.access.expose(), token.expires_at), ("a", Some(4600)));
        assert_eq!(token.refresh.unwrap().expose(), "r");
        for (expires_in, expires_at) in [
            ("\"3600\"", Some(4600)),
            ("3599.7", Some(4599)),
            ("-1", Some(1000)),
            ("1e300", Some(u64::MAX)),
            ("null", None),
        ] {
            let body = format!(
                r#"{{"access_token":"a","token_type":"BEARER","expires_in":{expires_in}}}"#
            );
            assert_eq!(read(&body).unwrap().expires_at, expires_at, "{body}");
        }
        let token = read(r#"{"access_token":"a"}"#).unwrap();
        assert!(
            token.refresh.is_none() && token.is_fresh(u64::MAX),
            "nobody knows when it ends"
        );
    }

    #[test]
    fn refuses_what_it_cannot_use_and_quotes_no_token() {
        for body in [
            r#"{"access_token":"canary","token_type":"mac"}"#,
            r#"{"access_token":"canary","expires_in":"soon"}"#,
            r#"{"access_token":{"a":"canary"}}"#,
            r#"{"refresh_token":"canary"}"#,
            r#"{"access_token":" ","refresh_token":"canary"}"#,
            "canary",
        ] {
            assert!(!read(body).unwrap_err().contains("canary"), "{body}");
        }
    }

    #[test]
    fn a_token_is_given_up_before_its_end() {
        let token = |lifetime: u64| {
            read(&format!(
                r#"{{"access_token":"a","expires_in":{lifetime}}}"#
            ))
            .unwrap()
        };
        assert!(token(3600).is_fresh(1000 + 3539) && !token(3600).is_fresh(1000 + 3540));
        assert!(token(10).is_fresh(1007) && !token(10).is_fresh(1008));
        assert!(!token(0).is_fresh(1000) && !token(3600).is_fresh(u64::MAX));
        assert!(token(3600).is_fresh(0), "the clock was set back");
    }

    #[test]
    fn what_is_kept_comes_back_only_for_the_same_settings() {
        let token = read(r#"{"access_token":"a\"b","expires_in":60,"refresh_token":"r"}"#).unwrap();
        let kept = token.store("one").unwrap();
        let again = Token::load(&kept, "one").unwrap();
        assert_eq!(
            (again.access.expose(), again.refresh.unwrap().expose()),
            ("a\"b", "r")
        );
        assert_eq!((again.expires_at, again.lifetime), (Some(1060), Some(60)));
        assert!(Token::load(&kept, "two").is_none());
        assert!(Token::load(&Secret::new("sk-123".to_owned()).unwrap(), "one").is_none());
    }
}
