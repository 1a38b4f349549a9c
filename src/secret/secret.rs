//! A key as a type that cannot be shown.
//!
//! No `Display`, no `Serialize`, a `Debug` that says nothing, and memory that is
//! wiped when it is dropped. The one way to its characters is [`Secret::expose`],
//! whose callers are few and easy to find.

use std::fmt;

use zeroize::Zeroizing;

/// A key or token.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the characters over; outer white space, which a copied key often
    /// carries and no header may, is left out. `None` when nothing is left.
    #[must_use]
    pub fn new(text: String) -> Option<Self> {
        let text = Zeroizing::new(text);
        let trimmed = text.trim();
        (!trimmed.is_empty()).then(|| Self(Zeroizing::new(trimmed.to_owned())))
    }

    /// The characters, for a header and nothing else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_nothing_of_itself() {
        let secret = Secret::new(" canary\n".to_owned()).unwrap();
        assert_eq!(secret.expose(), "canary");
        assert!(!format!("{secret:?} {secret:#?}").contains("canary"));
        assert!(Secret::new(" \n".to_owned()).is_none());
    }
}
