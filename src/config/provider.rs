//! Whom to ask and with whose key: the part of the settings that `setup` and `key` need too.

use std::sync::Arc;

use crate::api::address::{is_exposed, is_local, origin};
use crate::config::file::File;
use crate::config::profile::{self, Environment, Profile};
use crate::error::Error;
use crate::secret::command::{HOME, KeyCommand};
#[cfg(feature = "oauth")]
use crate::secret::oauth_session::Session;
use crate::secret::source::{self, AskKeyring, Key, KeyOptions, Keys};
use crate::secret::token::TokenSource;

/// A profile with the places where its key may be.
#[derive(Debug)]
pub struct Provider {
    /// The profile.
    pub profile: Profile,
    /// The key, where it is there already.
    pub given: Option<Key>,
    /// The command that writes it.
    pub command: Option<KeyCommand>,
    /// Whether the profile has a key that is not sent, since requests go to another host than the profile's own.
    pub is_withheld: bool,
    /// The login whose tokens are sent in place of a key.
    #[cfg(feature = "oauth")]
    pub session: Option<Session>,
}

/// Finds the profile of that name, with requests going to `base_url` where one is named.
///
/// # Errors
/// [`Error::Usage`] for an unknown profile, an unusable command, a credential that cannot be read.
pub fn resolve(
    name: Option<String>,
    base_url: Option<String>,
    environment: Environment<'_>,
    file: &File,
) -> Result<Provider, Error> {
    let name = profile::name(name, environment, file.profile.clone());
    let mut profile = profile::find(&name, &file.profiles, environment)?;
    if let Some(base_url) = base_url.or_else(|| environment("GPTPIPE_BASE_URL")) {
        profile.redirect(base_url);
    }
    let variable = profile.key_env.as_deref();
    let has_own = variable.and_then(environment).is_some() || profile.key_command.is_some();
    let is_withheld = profile.is_foreign && has_own;
    let given = source::given(environment, &name, variable, profile.is_foreign)?;
    let command = profile
        .key_command
        .as_deref()
        .filter(|_| !profile.is_foreign);
    let command = command
        .map(|text| {
            let mut hidden = profile::key_variables(&file.profiles);
            hidden.push(source::VARIABLE.to_owned());
            KeyCommand::parse(text, environment(HOME).as_deref(), hidden)
        })
        .transpose()
        .map_err(|why| Error::usage(format!("`key-command` of the profile `{name}`: {why}")))?;
    #[cfg(feature = "oauth")]
    let session = profile
        .oauth
        .as_ref()
        // Its tokens are for the profile's own host.
        .filter(|_| !profile.is_foreign)
        .map(|table| {
            let mut hidden = profile::key_variables(&file.profiles);
            hidden.push(source::VARIABLE.to_owned());
            table.session(&name, environment, hidden)
        })
        .transpose()?;
    Ok(Provider {
        profile,
        given,
        command,
        is_withheld,
        #[cfg(feature = "oauth")]
        session,
    })
}

impl Provider {
    /// The host that requests go to, with its port where that is not the usual one; empty where there is no address.
    #[must_use]
    pub fn host(&self) -> String {
        let origin = self.profile.base_url.as_deref().and_then(origin);
        origin.map(|(_, host)| host).unwrap_or_default()
    }

    /// What hands out the key.
    #[must_use]
    pub fn keys(&self) -> Arc<Keys> {
        Arc::new(Keys::new(KeyOptions {
            profile: self.profile.name.clone(),
            host: self.host(),
            is_foreign: self.profile.is_foreign,
            given: self.given.clone(),
            command: self.command.clone(),
            keyring: self.ask_keyring(),
            tokens: self.tokens(),
            variable: self
                .profile
                .key_env
                .clone()
                .filter(|_| !self.profile.is_foreign),
        }))
    }

    #[cfg(feature = "oauth")]
    fn tokens(&self) -> Option<Arc<dyn TokenSource>> {
        let session = self.session.clone()?;
        Some(Arc::new(session))
    }

    #[cfg(not(feature = "oauth"))]
    #[expect(clippy::unused_self, reason = "it has one with the feature")]
    fn tokens(&self) -> Option<Arc<dyn TokenSource>> {
        None
    }

    fn ask_keyring(&self) -> AskKeyring {
        let profile = &self.profile;
        let url = profile.base_url.as_deref().unwrap_or_default();
        // A key that must not be sent need not be known.
        let is_refused = is_exposed(url) && !profile.allows_http;
        if !cfg!(feature = "keyring") || profile.is_foreign || is_refused {
            AskKeyring::Never
        } else if profile.needs_key {
            AskKeyring::Needed
        } else if is_local(url) {
            // Most servers of one's own want none, and a keyring costs more time than they take to answer.
            AskKeyring::WhenRefused
        } else {
            AskKeyring::First
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(name: &str, base_url: Option<&str>, variables: &[(&str, &str)]) -> Provider {
        let environment = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let name = Some(name.to_owned());
        resolve(
            name,
            base_url.map(str::to_owned),
            &environment,
            &File::default(),
        )
        .unwrap()
    }

    #[test]
    fn a_key_goes_to_its_profiles_host_alone() {
        let key = ("OPENAI_API_KEY", "own");
        let is_sent = |base_url, variables: &[(&str, &str)]| {
            let given = provider("openai", base_url, variables).given;
            given.map(|key| key.secret.expose().to_owned())
        };
        let own = Some("own".to_owned());
        assert_eq!(is_sent(None, &[key]), own);
        assert_eq!(is_sent(Some("https://api.openai.com/v2"), &[key]), own);
        assert_eq!(is_sent(Some("https://other.test/v1"), &[key]), None);
        assert_eq!(is_sent(Some("http://api.openai.com/v1"), &[key]), None);
        assert_eq!(
            is_sent(Some("https://api.openai.com.other.test/v1"), &[key]),
            None
        );
        assert_eq!(
            is_sent(None, &[key, ("GPTPIPE_BASE_URL", "https://other.test/v1")]),
            None
        );
        // Whoever sets both means one for the other.
        assert_eq!(
            is_sent(None, &[key, ("OPENAI_BASE_URL", "https://other.test/v1")]),
            own
        );
        let any = ("GPTPIPE_API_KEY", "any");
        assert_eq!(
            is_sent(Some("https://other.test/v1"), &[key, any]),
            Some("any".to_owned())
        );
        // Without an address of its own a profile has none to stay at.
        let azure = provider(
            "azure",
            Some("https://r.test/v1"),
            &[("AZURE_OPENAI_API_KEY", "own")],
        );
        assert!(azure.given.is_some());
    }

    #[cfg(feature = "keyring")]
    #[test]
    fn the_keyring_is_asked_where_a_key_may_be_sent() {
        let ask = |name, base_url| provider(name, base_url, &[]).ask_keyring();
        assert_eq!(ask("openai", None), AskKeyring::Needed);
        assert_eq!(
            ask("openai", Some("https://other.test/v1")),
            AskKeyring::Never
        );
        assert_eq!(ask("ollama", None), AskKeyring::WhenRefused);
        let far = |host| provider("ollama", None, &[("OLLAMA_HOST", host)]).ask_keyring();
        assert_eq!(far("https://gpu.test"), AskKeyring::First);
        assert_eq!(far("gpu.test"), AskKeyring::Never);
    }
}
