//! Creating an object only if nobody has: by the store's own condition, or by claims where a store has none.

use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use bytes::Bytes;
use object_store::{Error as StoreError, ObjectStoreExt, PutMode, PutOptions};
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::{Repository, RepositoryError};

/// How objects are created in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CreateBy {
    /// The store creates an object only if its name is free (`If-None-Match: *`, a hard link).
    Condition,
    /// The store cannot. Each writer leaves a claim that is named by its content, then lists the claims, and writes only
    /// when there is no other. Of two writers with different contents at least one sees the other's claim, since each
    /// claims before it looks; both may refuse. The store must show a confirmed object in every later list.
    Claims,
}

/// How [`Repository::put_new`] ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutNew {
    /// The object is there, and we put it there.
    Created,
    /// It was there, with the same content.
    Same,
}

/// Whether a name was free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Created {
    Yes,
    NameTaken,
}

impl Repository {
    /// Creates an object, never over another one.
    ///
    /// `identity` names what bytes stand for, in up to 64 letters and digits: an object that has the name already is ours
    /// when both have one identity ([`digest_name`] where only equal bytes are the same). If it is not, ours is kept under
    /// another name and the error names both.
    pub async fn put_new(
        &self,
        name: &str,
        content: Bytes,
        identity: impl Fn(&[u8]) -> Result<String, String>,
    ) -> Result<PutNew, RepositoryError> {
        self.still_there().await?;
        let own = identity(&content).map_err(|why| self.corrupt(name, why))?;
        match self.create(name, &content, &own, self.mark.create_by).await {
            Ok(Created::Yes) => return Ok(PutNew::Created),
            Ok(Created::NameTaken) => {}
            Err(RepositoryError::Conflict { .. }) => return Err(self.keep_aside(name, content).await),
            Err(error) => return Err(error),
        }
        let there = self.get(name).await?;
        match identity(&there) {
            Ok(other) if other == own => Ok(PutNew::Same),
            Ok(_) => Err(self.keep_aside(name, content).await),
            Err(why) => Err(self.corrupt(name, why)),
        }
    }

    async fn keep_aside(&self, name: &str, content: Bytes) -> RepositoryError {
        let kept = format!("{name}.conflict-{}", short_digest(&content));
        let (object, repository) = (name.to_owned(), self.name.clone());
        match self.put(&kept, content).await {
            Ok(()) => RepositoryError::Conflict { object, kept, repository },
            Err(error) => error,
        }
    }

    pub(super) async fn create(
        &self,
        name: &str,
        content: &Bytes,
        identity: &str,
        by: CreateBy,
    ) -> Result<Created, RepositoryError> {
        match by {
            CreateBy::Condition => self.create_by_condition(name, content).await,
            CreateBy::Claims => self.create_by_claims(name, content, identity).await,
        }
    }

    /// A create whose answer was lost is asked again; if it had succeeded, the name is now taken, by our own content.
    async fn create_by_condition(&self, name: &str, content: &Bytes) -> Result<Created, RepositoryError> {
        let path = self.path(name)?;
        let deadline = Instant::now() + self.patience;
        let mut pause = Duration::from_millis(100);
        loop {
            let options =
                PutOptions { mode: PutMode::Create, attributes: self.attributes.clone(), ..PutOptions::default() };
            self.sends(content.len()).await;
            let error = match self.store.put_opts(&path, content.clone().into(), options).await {
                Ok(_) => return Ok(Created::Yes),
                // Also what a store says while two creates of one name are under way, of which none may succeed.
                Err(error @ StoreError::AlreadyExists { .. }) => match self.store.head(&path).await {
                    Ok(_) => return Ok(Created::NameTaken),
                    Err(StoreError::NotFound { .. }) => self.error("create", name, error),
                    Err(error) => self.error("look at", name, error),
                },
                Err(StoreError::NotImplemented { .. } | StoreError::NotSupported { .. }) => {
                    return Err(self.unconditional("it says that it has no conditional writes"));
                }
                Err(error) => self.error("create", name, error),
            };
            if self.directory.is_some() || !error.is_outage() || Instant::now() + pause > deadline {
                return Err(error);
            }
            tracing::debug!(object = name, %error, "creating an object is tried again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    async fn create_by_claims(&self, name: &str, content: &Bytes, identity: &str) -> Result<Created, RepositoryError> {
        match self.store.head(&self.path(name)?).await {
            Ok(_) => return Ok(Created::NameTaken),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(self.error("look at", name, error)),
        }
        let folder = format!("{name}.claims");
        let own = format!("{folder}/{identity}");
        self.write(&own, Bytes::new()).await?;
        let claims = self.list(&folder).await?;
        if !claims.iter().any(|claim| claim.name == own) {
            return Err(self.unconditional("a list did not show an object that had been confirmed"));
        }
        if claims.len() > 1 {
            let (object, repository) = (name.to_owned(), self.name.clone());
            return Err(RepositoryError::Conflict { object, kept: own, repository });
        }
        self.write(name, content.clone()).await?;
        Ok(Created::Yes)
    }

    /// A round trip: an object is created, a second one of its name is refused, the first is read, listed, and removed. Returns
    /// how long that took.
    ///
    /// # Errors
    /// Whatever of it the store does not do.
    pub async fn check(&self) -> Result<Duration, RepositoryError> {
        let begun = Instant::now();
        self.read_mark().await?;
        let name = format!("probe/{}", random_name());
        let done = self.round_trip(&name).await;
        let removed = self.remove_for_good(&name).await;
        done.and(removed)?;
        Ok(begun.elapsed())
    }

    async fn round_trip(&self, name: &str) -> Result<(), RepositoryError> {
        let (first, second) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
        match self.mark.create_by {
            CreateBy::Condition => {
                if self.create_by_condition(name, &first).await? != Created::Yes {
                    return Err(self.unconditional("it says that a new name is taken"));
                }
                if self.create_by_condition(name, &second).await? == Created::Yes {
                    return Err(self.unconditional("the second of two creates of one name overwrote the first"));
                }
            }
            CreateBy::Claims => self.put(name, first.clone()).await?,
        }
        if self.get(name).await? != first {
            return Err(self.corrupt(name, "it did not come back as it was written"));
        }
        if self.list("probe").await?.iter().all(|entry| entry.name != name) {
            return Err(self.corrupt(name, "a list does not show it although it was confirmed"));
        }
        Ok(())
    }

    async fn remove_for_good(&self, name: &str) -> Result<(), RepositoryError> {
        self.delete(name).await?;
        match self.size(name).await {
            Err(error) if error.is_absent() => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(self.corrupt(name, "it is still there after it was deleted")),
        }
    }

    /// Creates one name twice, with two contents: the second must be refused and the first must stay.
    pub(super) async fn probe(&self) -> Result<(), RepositoryError> {
        let name = format!("probe/{}", random_name());
        let (first, second) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
        let created = self.create_by_condition(&name, &first).await?;
        if created != Created::Yes {
            return Err(self.unconditional("it says that a new name is taken"));
        }
        let again = self.create_by_condition(&name, &second).await?;
        let path = self.path(&name)?;
        let read = async { self.store.get(&path).await?.bytes().await };
        let kept = read.await.map_err(|error| self.error("read", &name, error))?;
        if let Err(error) = self.store.delete(&path).await {
            tracing::warn!(object = name, %error, "the probe of a repository was left behind");
        }
        if again == Created::Yes || kept != first {
            return Err(self.unconditional("the second of two creates of one name overwrote the first"));
        }
        Ok(())
    }

    fn unconditional(&self, why: &str) -> RepositoryError {
        RepositoryError::NoConditionalCreate { repository: self.name.clone(), why: why.to_owned() }
    }
}

/// Sixteen random bytes as text.
pub(super) fn random_name() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}

/// SHA-256 in hexadecimal: the identity of bytes that are only the same when they are equal.
pub fn digest_name(content: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, content);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn short_digest(content: &[u8]) -> String {
    digest_name(content)[..16].to_owned()
}
