//! Where the key of a run comes from, in this order: a credential that systemd hands over, the environment, the
//! profile's command, the system's keyring, an OAuth token.
//!
//! What costs nothing is looked up at the start. The others are asked when the first request is about to be sent,
//! once for all requests, and not at all by a run whose replies are all remembered. A key is its profile's, and goes
//! to its profile's host alone; only `GPTPIPE_API_KEY` and the credential `gptpipe` are for whatever host is named.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use tokio::sync::Mutex;

use crate::error::Error;
use crate::secret::command::KeyCommand;
pub use crate::secret::given::{Key, Origin, VARIABLE, given};
use crate::secret::keyring::{self, KeyringError};
use crate::secret::secret::Secret;
use crate::secret::token::TokenSource;

/// Whether the keyring is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskKeyring {
    /// It is not.
    Never,
    /// Only when a server refuses to answer without a key.
    WhenRefused,
    /// It is, and there need not be one.
    First,
    /// It is, and without a key nothing is sent.
    Needed,
}

/// Where to look.
#[derive(Debug)]
pub struct KeyOptions {
    /// The profile's name.
    pub profile: String,
    /// The host that requests go to, with its port where that is not the usual one.
    pub host: String,
    /// Whether that is another than the profile's own.
    pub is_foreign: bool,
    /// What was there at the start.
    pub given: Option<Key>,
    /// The profile's command.
    pub command: Option<KeyCommand>,
    /// Whether the keyring is asked.
    pub keyring: AskKeyring,
    /// Where tokens come from.
    pub tokens: Option<Arc<dyn TokenSource>>,
    /// The profile's own variable, for hints.
    pub variable: Option<String>,
}

/// Finds the key and hands it out.
#[derive(Debug)]
pub struct Keys {
    options: KeyOptions,
    found: Mutex<State>,
    notes: std::sync::Mutex<Vec<String>>,
    /// Whether it is tokens that are handed out.
    has_tokens: AtomicBool,
}

#[derive(Clone, Debug)]
enum State {
    /// Nobody has looked yet.
    Unknown,
    /// A key, or none.
    Key(Option<Key>),
    /// Tokens.
    Tokens(Arc<dyn TokenSource>),
    /// The look-up failed, which is told to each request that asks.
    Failed(String, Option<String>),
}

impl Default for Keys {
    /// No key at all.
    fn default() -> Self {
        Self::fixed(None)
    }
}

impl Keys {
    /// Gets ready to look.
    #[must_use]
    pub fn new(options: KeyOptions) -> Self {
        Self {
            options,
            found: Mutex::new(State::Unknown),
            notes: std::sync::Mutex::default(),
            has_tokens: AtomicBool::new(false),
        }
    }

    /// Whether what was handed out is a token and not a key.
    #[must_use]
    pub fn has_tokens(&self) -> bool {
        self.has_tokens.load(Ordering::Relaxed)
    }

    /// One key that is there already, or none.
    #[must_use]
    pub fn fixed(secret: Option<Secret>) -> Self {
        Self::new(KeyOptions {
            profile: String::new(),
            host: String::new(),
            is_foreign: false,
            given: secret.map(|secret| Key::new(secret, Origin::Own)),
            command: None,
            keyring: AskKeyring::Never,
            tokens: None,
            variable: None,
        })
    }

    /// The key that was there at the start, for what can be known to be wrong with it before anything is read.
    #[must_use]
    pub fn given(&self) -> Option<&Secret> {
        self.options.given.as_ref().map(|key| &key.secret)
    }

    /// The key that was there at the start.
    #[must_use]
    pub fn first(&self) -> Option<&Key> {
        self.options.given.as_ref()
    }

    /// Whether there is any place that a key could come from.
    #[must_use]
    pub fn may_be_found(&self) -> bool {
        let KeyOptions {
            given,
            command,
            keyring,
            tokens,
            ..
        } = &self.options;
        given.is_some()
            || command.is_some()
            || tokens.is_some()
            || (*keyring != AskKeyring::Never && keyring::may_be_there())
    }

    /// The key for a request; `None` to send none.
    ///
    /// # Errors
    /// Why there is no key where one is needed, or why the first source that is configured has none to give.
    pub async fn get(&self) -> Result<Option<Secret>, Error> {
        if let Some(key) = &self.options.given {
            return Ok(Some(key.secret.clone()));
        }
        let is_first = self.options.keyring != AskKeyring::WhenRefused;
        Ok(self.key(is_first).await?.map(|key| key.secret))
    }

    /// The key with what is known of it, also where it would be sent only when the server refuses to answer without.
    ///
    /// # Errors
    /// What [`Keys::get`] says.
    pub async fn any(&self) -> Result<Option<Key>, Error> {
        self.key(self.options.keyring != AskKeyring::Never).await
    }

    async fn key(&self, asks_keyring: bool) -> Result<Option<Key>, Error> {
        if let Some(key) = &self.options.given {
            return Ok(Some(key.clone()));
        }
        let mut state = self.found.lock().await;
        if matches!(*state, State::Unknown) {
            *state = self.look(asks_keyring).await;
        }
        self.hand_out(state.clone()).await
    }

    /// Another key in place of one that the server refused, or of none; `None` where there is no other.
    ///
    /// # Errors
    /// Why it cannot be renewed.
    pub async fn renew(&self, refused: Option<&Secret>) -> Result<Option<Secret>, Error> {
        if self.options.given.is_some() {
            return Ok(None);
        }
        let mut state = self.found.lock().await;
        let is_refused =
            |secret: &Secret| refused.is_some_and(|refused| refused.expose() == secret.expose());
        match (&*state, refused) {
            (State::Tokens(tokens), Some(refused)) => {
                let tokens = Arc::clone(tokens);
                drop(state);
                return tokens.renew(refused).await.map(Some);
            }
            (State::Key(Some(key)), _) if !is_refused(&key.secret) => {
                return Ok(Some(key.secret.clone()));
            }
            // What a command writes may be a token that has run out by now.
            (
                State::Key(Some(Key {
                    origin: Origin::Command(_),
                    ..
                })),
                _,
            ) => {
                let renewed = self.run_command().await?;
                let secret = renewed.map(|key| {
                    let secret = key.secret.clone();
                    *state = State::Key(Some(key));
                    secret
                });
                return Ok(secret.filter(|secret| !is_refused(secret)));
            }
            (State::Key(None), None) if self.options.keyring == AskKeyring::WhenRefused => {}
            _ => return Ok(None),
        }
        *state = self.look(true).await;
        Ok(self.hand_out(state.clone()).await?.map(|key| key.secret))
    }

    /// What tells this key from others for as long as it is used: the key, or for tokens, which change, whose they are.
    ///
    /// # Errors
    /// What [`Keys::get`] says.
    pub async fn identity(&self) -> Result<Option<Secret>, Error> {
        let secret = self.get().await?;
        if matches!(*self.found.lock().await, State::Tokens(_)) {
            return Ok(Secret::new(format!("oauth {}", self.options.profile)));
        }
        Ok(secret)
    }

    /// What to tell the user besides, each once.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What to do when the server refuses the key.
    #[must_use]
    pub fn refusal_hint(&self) -> Option<String> {
        let KeyOptions {
            profile,
            is_foreign,
            given,
            ..
        } = &self.options;
        if *is_foreign && given.is_none() {
            return Some(format!(
                "check the key in {VARIABLE}, which is for any host; that of the profile `{profile}` goes to its own \
                 host alone"
            ));
        }
        // It is held only while it is looked for, and then there is nothing to refuse yet.
        let state = self.found.try_lock().ok()?;
        match &*state {
            State::Key(Some(key)) => Some(match &key.origin {
                Origin::Keyring(_) => {
                    format!("store another one with `gptpipe setup -P {profile}`")
                }
                origin => format!("check {origin}"),
            }),
            State::Tokens(_) => Some(format!("log in anew with `gptpipe login -P {profile}`")),
            _ => None,
        }
    }

    /// Why there is no key, and what to do about it.
    #[must_use]
    pub fn missing(&self) -> Error {
        let KeyOptions {
            profile, variable, ..
        } = &self.options;
        let variable = match variable.as_deref() {
            Some(variable) => format!("{variable} or {VARIABLE}"),
            None => VARIABLE.to_owned(),
        };
        let store = if keyring::may_be_there() && self.options.keyring != AskKeyring::Never {
            format!("store one with `gptpipe setup -P {profile}`, or put it into {variable}")
        } else {
            format!("put it into {variable}, or name a `key-command` in the profile")
        };
        Error::usage_hint(
            format!("there is no key for the profile `{profile}`"),
            format!(
                "{store}; to try gptpipe without one, use --demo, or a server of your own with --base-url or `-P ollama`"
            ),
        )
    }

    async fn hand_out(&self, state: State) -> Result<Option<Key>, Error> {
        match state {
            State::Unknown | State::Key(None) => Ok(None),
            State::Key(Some(key)) => Ok(Some(key)),
            State::Tokens(tokens) => Ok(Some(Key::new(tokens.get().await?, Origin::Token))),
            State::Failed(message, hint) => Err(Error::Usage { message, hint }),
        }
    }

    /// Asks one source after the other.
    async fn look(&self, asks_keyring: bool) -> State {
        match self.find(asks_keyring).await {
            Ok(state) => state,
            Err(error) => State::Failed(error.to_string(), error.hint()),
        }
    }

    async fn find(&self, asks_keyring: bool) -> Result<State, Error> {
        if let Some(key) = self.run_command().await? {
            return Ok(State::Key(Some(key)));
        }
        let has_keyring = asks_keyring && self.options.keyring != AskKeyring::Never;
        if has_keyring && let Some(key) = self.read_keyring().await? {
            return Ok(State::Key(Some(key)));
        }
        match &self.options.tokens {
            Some(tokens) => {
                self.has_tokens.store(true, Ordering::Relaxed);
                Ok(State::Tokens(Arc::clone(tokens)))
            }
            None if self.options.keyring == AskKeyring::Needed => Err(self.missing()),
            None => Ok(State::Key(None)),
        }
    }

    async fn run_command(&self) -> Result<Option<Key>, Error> {
        let Some(command) = &self.options.command else {
            return Ok(None);
        };
        let written = command.run().await.map_err(|why| {
            Error::usage_hint(
                why,
                format!(
                    "try `key-command` of the profile `{}` in a shell",
                    self.options.profile
                ),
            )
        })?;
        if !written.said.is_empty() {
            self.note(format!(
                "the key command {} says: {}",
                command.program(),
                written.said
            ));
        }
        let origin = Origin::Command(command.program().to_owned());
        Ok(Some(Key::new(written.secret, origin)))
    }

    async fn read_keyring(&self) -> Result<Option<Key>, Error> {
        let KeyOptions {
            profile,
            host,
            keyring,
            tokens,
            ..
        } = &self.options;
        let is_needed = *keyring == AskKeyring::Needed && tokens.is_none();
        let stored = match keyring::read(profile).await {
            Ok(Some(stored)) => stored,
            Ok(None) => return Ok(None),
            // Without a keyring there is no key in it, and none may be needed.
            Err(KeyringError::NotBuilt | KeyringError::NoBus | KeyringError::NoService)
                if !is_needed =>
            {
                return Ok(None);
            }
            Err(error) => {
                let hint = error.hint();
                return Err(Error::usage_hint(
                    format!("there is no key for the profile `{profile}`: {error}"),
                    hint,
                ));
            }
        };
        if let Some(other) = stored.host.as_ref().filter(|other| *other != host) {
            return Err(Error::usage_hint(
                format!(
                    "the key of the profile `{profile}` was stored for {other} and is not sent to {host}"
                ),
                format!(
                    "`gptpipe setup -P {profile}` stores one for {host}; {VARIABLE} is for any host"
                ),
            ));
        }
        if stored.others > 0 {
            self.note(format!(
                "the keyring has {} entries for the profile `{profile}`; the one that was stored last is used, and \
                 `gptpipe setup -P {profile}` replaces them by one",
                stored.others + 1
            ));
        }
        Ok(Some(Key::stored(profile.clone(), &stored)))
    }

    fn note(&self, note: String) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.push(note);
    }
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;

    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned()).unwrap()
    }

    fn options() -> KeyOptions {
        KeyOptions {
            profile: "corp".to_owned(),
            host: "corp.test".to_owned(),
            is_foreign: false,
            given: None,
            command: None,
            keyring: AskKeyring::Never,
            tokens: None,
            variable: None,
        }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[cfg(unix)]
    #[test]
    fn a_command_is_run_once_and_again_when_its_key_is_refused() {
        let folder = std::env::temp_dir().join(format!("gptpipe-command-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let count = folder.join("count");
        let text = format!(
            "sh -c 'echo x >> {0}; echo key-$(wc -l < {0})'",
            count.display()
        );
        let command = KeyCommand::parse(&text, None, Vec::new()).unwrap();
        let keys = Keys::new(KeyOptions {
            command: Some(command),
            ..options()
        });
        run(async {
            let (first, second) = tokio::join!(keys.get(), keys.get());
            let (first, second) = (first.unwrap().unwrap(), second.unwrap().unwrap());
            assert_eq!((first.expose(), second.expose()), ("key-1", "key-1"));
            let (third, fourth) = tokio::join!(keys.renew(Some(&first)), keys.renew(Some(&second)));
            assert_eq!(third.unwrap().unwrap().expose(), "key-2");
            assert_eq!(fourth.unwrap().unwrap().expose(), "key-2", "once for all");
        });
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[derive(Debug)]
    struct Tokens;

    impl TokenSource for Tokens {
        fn get(&self) -> BoxFuture<'_, Result<Secret, Error>> {
            Box::pin(async { Ok(secret("old")) })
        }

        fn renew<'a>(&'a self, refused: &'a Secret) -> BoxFuture<'a, Result<Secret, Error>> {
            assert_eq!(refused.expose(), "old");
            Box::pin(async { Ok(secret("young")) })
        }
    }

    #[test]
    fn tokens_are_renewed_and_keys_are_not() {
        let keys = Keys::new(KeyOptions {
            tokens: Some(Arc::new(Tokens)),
            ..options()
        });
        run(async {
            let token = keys.get().await.unwrap().unwrap();
            assert_eq!(
                keys.renew(Some(&token)).await.unwrap().unwrap().expose(),
                "young"
            );
            assert_eq!(
                keys.identity().await.unwrap().unwrap().expose(),
                "oauth corp"
            );
            let keys = Keys::fixed(Some(secret("key")));
            let key = keys.get().await.unwrap().unwrap();
            assert!(keys.renew(Some(&key)).await.unwrap().is_none());
        });
    }

    #[test]
    fn without_any_source_there_is_no_key_and_a_needed_one_is_missed() {
        run(async {
            assert!(Keys::new(options()).get().await.unwrap().is_none());
            assert!(!Keys::new(options()).may_be_found());
            let error = Keys::new(options()).missing();
            assert_eq!(error.to_string(), "there is no key for the profile `corp`");
            assert!(error.hint().unwrap().contains("GPTPIPE_API_KEY"));
        });
    }
}
