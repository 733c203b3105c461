//! A repository: named objects that are written once and read back unchanged, in a directory or an object store.
//!
//! What is proven and what is not: an object is *there* when a write of it was confirmed (a directory: the file, the
//! rename and the directory are synced) and *absent* when it was asked for by name and the repository's own mark could be
//! read at that time. A list may lag behind both.

mod again;
mod client;
mod create;
mod ending;
mod error;
mod federation;
mod keeping;
mod list;
mod location;
mod mark;
mod pace;
mod parts;
mod upload;

pub use create::{CreateBy, PutNew, digest_name};
pub(crate) use ending::time;
pub use error::RepositoryError;
pub(crate) use error::chain;
pub(crate) use federation::Account;
pub use list::Entry;
pub use location::{Azure, AzureSecret, Gcs, Location, S3, ServerSide};
pub use mark::Mark;
pub(crate) use parts::is_part;
pub use upload::Upload;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Attribute, Attributes, Error as StoreError, ObjectStore, ObjectStoreExt, PutOptions};

use pace::Pace;

/// How a repository is opened.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it lies.
    pub location: Location,
    /// How long an operation is repeated while the store does not answer.
    pub patience: Duration,
}

/// How much and how fast a repository is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Bytes a second that are sent at most.
    pub upload: Option<u64>,
    /// Bytes a second that are fetched at most.
    pub download: Option<u64>,
    /// How long a connection may take to come about; 5 s unless given.
    pub connect: Option<Duration>,
    /// How long a request may move nothing; 30 s unless given.
    pub stall: Option<Duration>,
    /// Class of storage that objects are written to.
    pub storage_class: Option<String>,
}

/// An open repository. Cheap to clone; all clones share connections.
#[derive(Clone)]
pub struct Repository {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    name: String,
    /// PEM file with the CA of its endpoint.
    ca: Option<PathBuf>,
    /// The bucket or container that it is in.
    holder: String,
    patience: Duration,
    /// A directory whose file system was unmounted looks like an empty one, so it is looked at before each write.
    directory: Option<PathBuf>,
    mark: Mark,
    /// Of whatever is written.
    attributes: Attributes,
    upward: Option<Arc<Pace>>,
    downward: Option<Arc<Pace>>,
    anchor: Anchor,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its client holds keys and tokens, and shows some of them.
        f.debug_struct("Repository").field("name", &self.name).field("mark", &self.mark).finish_non_exhaustive()
    }
}

/// The object by which a repository proves that it is there when it holds nothing of a name.
#[derive(Clone, Debug)]
enum Anchor {
    /// Our own mark.
    Mark,
    /// None yet: another tool's repository, of which nothing is known.
    Unknown,
    /// One that another tool has written.
    Theirs(String),
}

impl Repository {
    /// Opens a repository that was initialised before.
    pub async fn open(settings: &Settings) -> Result<Repository, RepositoryError> {
        Repository::open_tuned(settings, &Tuning::default()).await
    }

    /// The same within limits.
    pub async fn open_tuned(settings: &Settings, tuning: &Tuning) -> Result<Repository, RepositoryError> {
        let mut repository = Repository::connect(settings, tuning)?;
        repository.mark = repository.read_mark().await?;
        Ok(repository)
    }

    /// Opens a repository, and makes it one first when nothing is there: probes how objects can be created, and leaves
    /// its mark. One that is there stays as it is, whatever `create_by` says.
    pub async fn init(settings: &Settings, create_by: CreateBy) -> Result<Repository, RepositoryError> {
        Repository::init_tuned(settings, &Tuning::default(), create_by).await
    }

    /// The same within limits.
    pub async fn init_tuned(
        settings: &Settings,
        tuning: &Tuning,
        create_by: CreateBy,
    ) -> Result<Repository, RepositoryError> {
        let mut repository = Repository::connect(settings, tuning)?;
        repository.mark = match repository.read_mark().await {
            Err(RepositoryError::NotARepository { .. }) => repository.leave_mark(create_by).await?,
            answer => answer?,
        };
        Ok(repository)
    }

    /// Another tool's repository, which is only read. Until it is [anchored](Repository::anchored), an object that is not found
    /// counts as absent without a proof.
    pub(crate) fn foreign(settings: &Settings) -> Result<Repository, RepositoryError> {
        Ok(Repository { anchor: Anchor::Unknown, ..Repository::connect(settings, &Tuning::default())? })
    }

    /// From now on nothing counts as absent while this object is not there.
    pub(crate) fn anchored(self, object: &str) -> Repository {
        Repository { anchor: Anchor::Theirs(object.to_owned()), ..self }
    }

    fn connect(settings: &Settings, tuning: &Tuning) -> Result<Repository, RepositoryError> {
        let name = settings.location.describe();
        let prefix =
            settings.location.prefix().map_err(|why| RepositoryError::Settings { repository: name.clone(), why })?;
        Ok(Repository {
            store: settings.location.connect(settings.patience, tuning)?,
            prefix,
            name,
            ca: settings.location.ca().map(std::path::Path::to_owned),
            holder: settings.location.holder(),
            patience: settings.patience,
            directory: match &settings.location {
                Location::Directory(path) => Some(path.clone()),
                _ => None,
            },
            mark: Mark::unread(),
            attributes: tuning.storage_class.iter().map(|class| (Attribute::StorageClass, class.clone())).collect(),
            upward: tuning.upload.map(|bytes| Arc::new(Pace::new(bytes))),
            downward: tuning.download.map(|bytes| Arc::new(Pace::new(bytes))),
            anchor: Anchor::Mark,
        })
    }

    /// As people write it: `s3://bucket/prefix`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the repository says about itself.
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Writes an object, over whatever has that name. Confirmed when it returns.
    pub async fn put(&self, name: &str, content: Bytes) -> Result<(), RepositoryError> {
        self.still_there().await?;
        self.write(name, content).await
    }

    /// The same where there may be no mark yet.
    async fn write(&self, name: &str, content: Bytes) -> Result<(), RepositoryError> {
        let path = self.path(name)?;
        let options = PutOptions { attributes: self.attributes.clone(), ..PutOptions::default() };
        self.sends(content.len()).await;
        let put = self.store.put_opts(&path, content.into(), options).await;
        put.map_err(|error| self.error("write", name, error))?;
        Ok(())
    }

    /// Waits until so many bytes may be sent.
    async fn sends(&self, bytes: usize) {
        if let Some(pace) = &self.upward {
            pace.take(bytes as u64).await;
        }
    }

    /// Waits until so many bytes may be fetched, or until what was fetched has had its time.
    async fn fetches(&self, bytes: u64) {
        if let Some(pace) = &self.downward {
            pace.take(bytes).await;
        }
    }

    /// Reads a whole object.
    pub async fn get(&self, name: &str) -> Result<Bytes, RepositoryError> {
        let path = self.path(name)?;
        let read = async {
            let answer = self.store.get(&path).await?;
            let size = answer.meta.size;
            Ok((size, answer.bytes().await?))
        };
        let (size, content) = self.answer("read", name, read.await).await?;
        if content.len() as u64 != size {
            let why = format!("the store announced {size} bytes and sent {}", content.len());
            return Err(self.corrupt(name, why));
        }
        // Its size was not known before.
        self.fetches(size).await;
        Ok(content)
    }

    /// Reads the bytes `range` of an object; fewer are an error.
    pub async fn range(&self, name: &str, range: Range<u64>) -> Result<Bytes, RepositoryError> {
        let path = self.path(name)?;
        self.fetches(range.end - range.start).await;
        let read = self.store.get_range(&path, range.clone()).await;
        let wanted = (range.end - range.start) as usize;
        match read {
            Ok(content) if content.len() == wanted => Ok(content),
            Err(error @ StoreError::NotFound { .. }) => self.answer("read", name, Err(error)).await,
            // A range that does not exist is refused in as many ways as there are stores.
            read => {
                match (self.size(name).await?, read) {
                    (size, _) if size < range.end => Err(self
                        .corrupt(name, format!("it is truncated: it has {size} bytes, and {} are needed", range.end))),
                    (_, Err(error)) => Err(self.error("read", name, error)),
                    (_, Ok(content)) => {
                        Err(self.corrupt(name, format!("the store sent {} bytes instead of {wanted}", content.len())))
                    }
                }
            }
        }
    }

    /// Bytes of an object, without reading it.
    pub async fn size(&self, name: &str) -> Result<u64, RepositoryError> {
        let path = self.path(name)?;
        Ok(self.answer("look at", name, self.store.head(&path).await).await?.size)
    }

    /// Removes an object; one that is not there is no error.
    pub async fn delete(&self, name: &str) -> Result<(), RepositoryError> {
        if let Some(directory) = self.directory.as_ref().filter(|_| is_part(name)) {
            return self.delete_part(directory, name);
        }
        let path = self.path(name)?;
        match self.store.delete(&path).await {
            Ok(()) => Ok(()),
            Err(StoreError::NotFound { .. }) => self.still_there().await,
            Err(error) => Err(self.error("delete", name, error)),
        }
    }

    pub(crate) fn corrupt(&self, name: &str, why: impl Into<String>) -> RepositoryError {
        RepositoryError::Corrupt { object: name.to_owned(), repository: self.name.clone(), why: why.into() }
    }

    /// Nothing is wrong with the object, and yet it cannot be used here.
    pub(crate) fn unreadable(&self, name: &str, why: &str) -> RepositoryError {
        RepositoryError::Settings { repository: self.name.clone(), why: format!("{name}: {why}") }
    }

    fn path(&self, name: &str) -> Result<Path, RepositoryError> {
        let refuse =
            |why: String| RepositoryError::Settings { repository: self.name.clone(), why: format!("'{name}': {why}") };
        let below = Path::parse(name).map_err(|error| refuse(error.to_string()))?;
        Ok(self.prefix.parts().chain(below.parts()).collect())
    }

    /// A 404 is also what a wrong bucket, a wrong prefix or an unmounted file system gives: it counts only while the
    /// repository's mark is there.
    async fn answer<T>(
        &self,
        action: &'static str,
        name: &str,
        answer: Result<T, StoreError>,
    ) -> Result<T, RepositoryError> {
        match answer {
            Ok(value) => Ok(value),
            Err(StoreError::NotFound { .. }) => {
                self.prove_presence().await?;
                Err(RepositoryError::Absent { object: name.to_owned(), repository: self.name.clone() })
            }
            Err(error) => Err(self.error(action, name, error)),
        }
    }

    async fn still_there(&self) -> Result<(), RepositoryError> {
        if self.directory.is_some() {
            self.prove_presence().await?;
        }
        Ok(())
    }

    /// Fails unless the repository answers for itself.
    pub(crate) async fn prove_presence(&self) -> Result<(), RepositoryError> {
        let object = match &self.anchor {
            Anchor::Mark => return self.read_mark().await.map(drop),
            Anchor::Unknown => return Ok(()),
            Anchor::Theirs(object) => object,
        };
        match self.store.head(&self.path(object)?).await {
            Ok(_) => Ok(()),
            Err(StoreError::NotFound { .. }) => {
                let why = format!("it holds no {object}; look at its path, and whether its file system is mounted");
                Err(RepositoryError::Settings { repository: self.name.clone(), why })
            }
            Err(error) => Err(self.error("look at", object, error)),
        }
    }

    fn error(&self, action: &'static str, name: &str, error: StoreError) -> RepositoryError {
        let (object, repository, mut why) = (name.to_owned(), self.name.clone(), chain(&error));
        if let Some(remedy) = error::remedy_of_a_certificate(&why, self.ca.as_deref()) {
            why = format!("{why}; {remedy}");
        }
        match error {
            StoreError::NotFound { .. } if error::lacks_holder(&why) => self.without_holder(),
            StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
                RepositoryError::Refused { action, object, repository, why }
            }
            // What was asked of no single object has no kind of its own.
            StoreError::Generic { .. } if error::is_refusal(&why) => {
                RepositoryError::Refused { action, object, repository, why }
            }
            StoreError::Generic { .. } if error::lacks_holder(&why) => self.without_holder(),
            error => RepositoryError::Unreachable { action, object, repository, why, source: Box::new(error) },
        }
    }

    fn without_holder(&self) -> RepositoryError {
        let why = format!("there is no {} at its store; make it there, or correct the location", self.holder);
        RepositoryError::Settings { repository: self.name.clone(), why }
    }
}
