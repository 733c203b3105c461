//! The object that makes a place a repository, and by which it proves that it is there.

use bytes::Bytes;
use jiff::Timestamp;
use object_store::{Error as StoreError, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use super::create::{CreateBy, random_name};
use super::error::{chain, lacks_holder};
use super::{Repository, RepositoryError};

/// Name of the mark.
pub const MARK: &str = "matriarch-repository.json";
const FORMAT: u32 = 1;

/// What a repository says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Version of everything in it, 1.
    pub format: u32,
    /// Random; a copy has the same.
    pub id: String,
    /// How objects are created here.
    pub create_by: CreateBy,
    /// When it was made.
    pub created: Timestamp,
}

impl Mark {
    pub(super) fn unread() -> Mark {
        Mark { format: 0, id: String::new(), create_by: CreateBy::Condition, created: Timestamp::UNIX_EPOCH }
    }
}

impl Repository {
    pub(super) async fn read_mark(&self) -> Result<Mark, RepositoryError> {
        let not = |why: String| RepositoryError::NotARepository { repository: self.name.clone(), why };
        let answer =
            async { self.store.get(&self.path(MARK).map_err(Gone::Ours)?).await?.bytes().await.map_err(Gone::Store) };
        let content = match answer.await {
            Ok(content) => content,
            Err(Gone::Store(error @ StoreError::NotFound { .. })) if !lacks_holder(&chain(&error)) => {
                return Err(not(format!("it holds no {MARK}")));
            }
            Err(Gone::Store(error)) => return Err(self.error("read", MARK, error)),
            Err(Gone::Ours(error)) => return Err(error),
        };
        let mark: Mark =
            serde_json::from_slice(&content).map_err(|error| not(format!("its {MARK} cannot be read: {error}")))?;
        if mark.format != FORMAT {
            return Err(not(format!(
                "it has format {}, and this program knows {FORMAT}; use a newer one",
                mark.format
            )));
        }
        if !self.mark.id.is_empty() && self.mark.id != mark.id {
            return Err(not(format!("another repository took its place while it was in use (id {})", mark.id)));
        }
        Ok(mark)
    }

    pub(super) async fn leave_mark(&self, create_by: CreateBy) -> Result<Mark, RepositoryError> {
        if create_by == CreateBy::Condition {
            self.probe().await?;
        }
        let mark = Mark { format: FORMAT, id: random_name(), create_by, created: Timestamp::now() };
        let text = serde_json::to_vec_pretty(&mark).map_err(|error| RepositoryError::Settings {
            repository: self.name.clone(),
            why: format!("its mark cannot be written as JSON: {error}"),
        })?;
        self.create(MARK, &Bytes::from(text), &mark.id, create_by).await?;
        // Somebody else may have been first: theirs counts.
        self.read_mark().await
    }
}

enum Gone {
    Store(StoreError),
    Ours(RepositoryError),
}

impl From<StoreError> for Gone {
    fn from(error: StoreError) -> Self {
        Gone::Store(error)
    }
}
