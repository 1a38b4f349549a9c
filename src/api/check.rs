//! Whether a key works, for free: the list of models.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;

use crate::api::address::models;
use crate::api::client::{Client, MAX_ERROR, MAX_PLAIN};
use crate::api::credentials::hide;
use crate::api::failure::{Failure, Kind};
use crate::api::fault;
use crate::secret::redact::without;
use crate::secret::secret::Secret;

/// How long the server may take to begin its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of the check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// The server took the key and has these models.
    Models(Vec<String>),
    /// The server has no such list, so nothing was found out.
    Unknown,
}

#[derive(Deserialize)]
struct List {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    id: String,
}

impl Client {
    /// Asks for the list of models with a key; nothing is to pay for that.
    ///
    /// # Errors
    /// What went wrong with the connection, or that the server refused the key.
    pub async fn check(&self, key: &Secret) -> Result<Checked, Failure> {
        self.ask_for_models(key)
            .await
            .map_err(|failure| hide(failure, Some(key)))
    }

    async fn ask_for_models(&self, key: &Secret) -> Result<Checked, Failure> {
        let (name, value) = self.credentials.header(key)?;
        let request = self.http.get(models(&self.url)).header(name, value);
        let response = self.response(request, PATIENCE).await?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let header = |name: &str| {
            let value = headers.get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        if matches!(status, 404 | 405 | 501) {
            return Ok(Checked::Unknown);
        }
        if !response.status().is_success() {
            let (body, _) = self.read(response, MAX_ERROR).await;
            return Err(fault::from_response(status, &header, &body));
        }
        let is_json = header(CONTENT_TYPE.as_str()).is_none_or(|kind| kind.contains("json"));
        let (body, end) = self.read(response, MAX_PLAIN).await;
        end?;
        // Some have a list of another form; that they answered is what counts.
        match serde_json::from_slice::<List>(&body) {
            Ok(list) => {
                let names = list.data.into_iter().map(|model| model.id);
                // They are kept in a file.
                let names = names.filter(|name| without(name, key.expose()).is_none());
                Ok(Checked::Models(names.collect()))
            }
            Err(_) if is_json => Ok(Checked::Unknown),
            Err(_) => Err(Failure::new(Kind::NotApi, "")),
        }
    }
}
