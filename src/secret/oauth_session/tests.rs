//! Logins of several processes over one keyring and one server, both of them plain values here.

use std::collections::BTreeMap;
use std::sync::Mutex as Plain;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::*;
use crate::error::ExitStatus;
use crate::secret::oauth::{Answer, Call, Unanswered};

/// What all processes share: the keyring, and a server that takes a refresh token once.
#[derive(Debug)]
struct World {
    entries: Plain<BTreeMap<String, Secret>>,
    /// Whether the keyring takes nothing.
    is_full: std::sync::atomic::AtomicBool,
    /// The number of the one refresh token that holds.
    generation: AtomicUsize,
    refreshes: AtomicUsize,
    /// What stands in every answer besides.
    answer: &'static str,
    /// Lets requests through.
    way: Semaphore,
    folder: PathBuf,
}

impl Drop for World {
    fn drop(&mut self) {
        // It was made only if somebody had to lock.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[derive(Debug)]
struct At(Arc<World>);

impl Vault for At {
    fn read<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<Secret>, KeyringError>> {
        let entry = self.0.entries.lock().unwrap().get(user).cloned();
        Box::pin(async move { Ok(entry) })
    }

    fn write<'a>(
        &'a self,
        user: &'a str,
        text: &'a Secret,
    ) -> BoxFuture<'a, Result<(), KeyringError>> {
        Box::pin(async move {
            if self.0.is_full.load(Ordering::SeqCst) {
                return Err(KeyringError::Locked);
            }
            self.0
                .entries
                .lock()
                .unwrap()
                .insert(user.to_owned(), text.clone());
            Ok(())
        })
    }

    fn remove<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<(), KeyringError>> {
        self.0.entries.lock().unwrap().remove(user);
        Box::pin(async { Ok(()) })
    }
}

impl Exchange for At {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Unanswered>> {
        Box::pin(async move {
            self.0.way.acquire().await.unwrap().forget();
            self.0.way.add_permits(1);
            let form = call.form.unwrap();
            let value = |name: &str| {
                form.iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| value.as_str())
            };
            let world = &self.0;
            let answer = |status, body: String| {
                Ok(Answer {
                    status,
                    body: Zeroizing::new(body.into_bytes()),
                })
            };
            let held = world.generation.load(Ordering::SeqCst);
            match value("grant_type") {
                Some("refresh_token") => {
                    world.refreshes.fetch_add(1, Ordering::SeqCst);
                    if value("refresh_token") != Some(&format!("r{held}")) {
                        // The whole family.
                        world.generation.store(1000, Ordering::SeqCst);
                        return answer(400, r#"{"error":"invalid_grant"}"#.to_owned());
                    }
                }
                grant => assert_eq!(grant, Some("client_credentials")),
            }
            let next = world.generation.fetch_add(1, Ordering::SeqCst) + 1;
            answer(
                200,
                format!(
                    r#"{{"access_token":"a{next}","token_type":"Bearer"{}}}"#,
                    world.answer.replace('#', &next.to_string())
                ),
            )
        })
    }
}

const ROTATING: &str = r#","refresh_token":"r#","expires_in":3600"#;

fn world(name: &str, answer: &'static str) -> Arc<World> {
    Arc::new(World {
        entries: Plain::default(),
        is_full: false.into(),
        generation: AtomicUsize::new(0),
        refreshes: AtomicUsize::new(0),
        answer,
        way: Semaphore::new(1),
        folder: std::env::temp_dir().join(format!("gptpipe-session-{}-{name}", std::process::id())),
    })
}

fn session_for(world: &Arc<World>, grant: Grant, client_id: &str) -> Session {
    let options = SessionOptions {
        profile: "corp".to_owned(),
        issuer: None,
        endpoints: Endpoints {
            token: Some("https://login.example/token".to_owned()),
            ..Endpoints::default()
        },
        registration: Registration {
            client_id: client_id.to_owned(),
            client_auth: None,
            scope: None,
            audience: None,
            resource: None,
            grant,
        },
        client_secret: ClientSecret::Variable(String::new(), Secret::new("cs".to_owned())),
        folder: world.folder.clone(),
    };
    Session::new(
        options,
        Box::new(At(Arc::clone(world))),
        Box::new(At(Arc::clone(world))),
    )
}

fn session(world: &Arc<World>) -> Session {
    session_for(world, Grant::Device, "cli")
}

/// A login whose access token has run out.
async fn logged_in(world: &Arc<World>) {
    let token = Token::read(
        br#"{"access_token":"a0","refresh_token":"r0","expires_in":0}"#,
        now(),
    )
    .unwrap();
    session(world).0.keep(&token).await.unwrap();
}

async fn get(session: &Session) -> Result<String, Error> {
    Ok(session.get().await?.expose().to_owned())
}

#[tokio::test]
async fn many_at_once_renew_once() {
    let world = world("many", ROTATING);
    logged_in(&world).await;
    // Sixteen processes with four requests each.
    let sessions: Vec<Session> = (0..16).map(|_| session(&world)).collect();
    let asked = sessions
        .iter()
        .flat_map(|session| (0..4).map(move |_| get(session)));
    for token in futures::future::join_all(asked).await {
        assert_eq!(token.unwrap(), "a1");
    }
    assert_eq!(world.refreshes.load(Ordering::SeqCst), 1);
    // And all find one refused at once.
    let refused = Secret::new("a1".to_owned()).unwrap();
    let asked = sessions
        .iter()
        .flat_map(|session| (0..4).map(|_| session.renew(&refused)));
    for token in futures::future::join_all(asked).await {
        assert_eq!(token.unwrap().expose(), "a2");
    }
    assert_eq!(world.refreshes.load(Ordering::SeqCst), 2);
    assert_eq!(get(&session(&world)).await.unwrap(), "a2", "it is kept");
}

#[tokio::test]
async fn a_renewal_goes_on_when_nobody_waits_any_more() {
    let world = world("dropped", ROTATING);
    logged_in(&world).await;
    world.way.acquire().await.unwrap().forget();
    let session_one = session(&world);
    let waiting = tokio::time::timeout(Duration::from_millis(50), session_one.get()).await;
    assert!(waiting.is_err(), "the server has not answered yet");
    world.way.add_permits(1);
    session_one.finish().await;
    assert_eq!(get(&session(&world)).await.unwrap(), "a1");
    assert_eq!(world.refreshes.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_keyring_that_takes_nothing_costs_no_refresh_token() {
    let world = world("full", ROTATING);
    logged_in(&world).await;
    world.is_full.store(true, Ordering::SeqCst);
    let error = get(&session(&world)).await.unwrap_err();
    assert!(
        error.to_string().ends_with("the keyring is locked"),
        "{error}"
    );
    assert_eq!(
        world.refreshes.load(Ordering::SeqCst),
        0,
        "the one that is kept must still hold"
    );
    world.is_full.store(false, Ordering::SeqCst);
    assert_eq!(get(&session(&world)).await.unwrap(), "a1");
}

#[tokio::test]
async fn what_the_server_leaves_out_stays_as_it_was() {
    let world = world("same", "");
    logged_in(&world).await;
    let one = session(&world);
    assert_eq!(get(&one).await.unwrap(), "a1");
    let kept = one.0.kept().await.unwrap().unwrap();
    assert_eq!(kept.refresh.unwrap().expose(), "r0", "no other was given");
    assert_eq!(
        get(&session(&world)).await.unwrap(),
        "a1",
        "no end is known, so it is used until it is refused"
    );
}

#[tokio::test]
async fn without_a_login_the_way_to_one_is_told() {
    let world = world("none", ROTATING);
    let told = |error: Error| (error.status(), error.to_string(), error.hint().unwrap());
    let (status, message, hint) = told(get(&session(&world)).await.unwrap_err());
    assert_eq!(
        (status, hint.as_str()),
        (ExitStatus::Hopeless, "run `gptpipe login -P corp`")
    );
    assert!(
        message.starts_with("there is no login for the profile `corp`"),
        "{message}"
    );
    // One for another application is none, and its token is not sent.
    logged_in(&world).await;
    get(&session_for(&world, Grant::Device, "other"))
        .await
        .unwrap_err();
    assert_eq!(world.refreshes.load(Ordering::SeqCst), 0);
    // One that the server has ended.
    world.generation.store(7, Ordering::SeqCst);
    let (status, message, hint) = told(get(&session(&world)).await.unwrap_err());
    assert_eq!(
        (status, hint.as_str()),
        (ExitStatus::Hopeless, "run `gptpipe login -P corp`")
    );
    assert!(
        message.starts_with("the login for the profile `corp` has ended"),
        "{message}"
    );
}

#[tokio::test]
async fn credentials_of_the_application_need_no_keyring() {
    let world = world("batch", r#","expires_in":3600"#);
    let batch = || session_for(&world, Grant::ClientCredentials, "batch");
    assert_eq!(get(&batch()).await.unwrap(), "a1");
    assert_eq!(
        get(&batch()).await.unwrap(),
        "a1",
        "another process uses what is kept"
    );
    world.entries.lock().unwrap().clear();
    world.is_full.store(true, Ordering::SeqCst);
    let one = batch();
    assert_eq!(get(&one).await.unwrap(), "a2");
    assert_eq!(
        get(&one).await.unwrap(),
        "a2",
        "it is held while the process lives"
    );
    assert_eq!(get(&batch()).await.unwrap(), "a3");
}
