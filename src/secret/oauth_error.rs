//! Why there is no token.

use crate::error::{Error, ExitStatus};

/// What is to be done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// It can help to ask again.
    Again,
    /// The user has to log in.
    LogIn,
    /// The settings, here or at the server, have to change.
    Settings,
}

/// No token.
#[derive(Clone, Debug)]
pub struct OauthError {
    /// The server's code for it (RFC 6749, section 5.2; RFC 8628, section 3.5), where it gave one.
    pub code: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What the user can do.
    pub hint: Option<String>,
    /// What helps.
    pub remedy: Remedy,
}

impl OauthError {
    /// An error of ours.
    #[must_use]
    pub fn new(remedy: Remedy, message: impl Into<String>) -> Self {
        Self {
            code: None,
            message: message.into(),
            hint: None,
            remedy,
        }
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<OauthError> for Error {
    fn from(error: OauthError) -> Self {
        let status = match error.remedy {
            Remedy::Again => ExitStatus::Temporary,
            Remedy::LogIn => ExitStatus::Hopeless,
            Remedy::Settings => {
                return Self::Usage {
                    message: error.message,
                    hint: error.hint,
                };
            }
        };
        Self::Request {
            status,
            message: error.message,
            hint: error.hint,
        }
    }
}
