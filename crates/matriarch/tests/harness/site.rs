//! A server of its own, an encrypted repository in a directory, and the file that names it: no cluster, no agent, no store.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use matriarch_archive::format::Identities;
use matriarch_archive::repository::{CreateBy, Location, Repository, Settings};
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::postgres::Installation;
use matriarch_testkit::server::Server;
use matriarch_testkit::user;
use serde_json::json;
use tokio_postgres::{Client, NoTls};

use super::PATIENCE;
use super::verb::{self, Outcome};

/// The server, and everything else in one folder.
pub struct Site {
    pub dir: TestDir,
    pub installation: Installation,
    pub server: Server,
}

impl Site {
    /// `name` is part of the folder's name; `settings` of the server.
    pub async fn empty(name: &str, installation: &Installation, settings: &str) -> Site {
        let dir = TestDir::new(name);
        let repository = dir.create("repository");
        let place = Settings { location: Location::Directory(repository.clone()), patience: PATIENCE };
        Repository::init(&place, CreateBy::Condition).await.unwrap();
        let (identity, recipient) = Identities::generate();
        write(&dir.join("key.txt"), &identity);
        write(&dir.join("other.txt"), &Identities::generate().0);
        let archive = json!({"archive": {
            "repositories": [{"location": repository}],
            "compression": "lz4",
            "encryption": {"recipients": [recipient], "identity_file": dir.join("key.txt")}
        }});
        write(&dir.join("archive.yml"), &matriarch_config::to_yaml(&archive));
        let server = Server::create(installation, &dir, "data", settings).await.unwrap();
        Site { dir, installation: installation.clone(), server }
    }

    /// A verb with what leads to the archive.
    pub fn words(&self, words: &[&str]) -> Vec<String> {
        let archive = self.dir.join("archive.yml").display().to_string();
        let all = words.iter().copied().chain(["--archive", &archive, "--scope", "main"]);
        all.map(str::to_owned).collect()
    }

    /// Runs one.
    pub async fn run(&self, words: &[&str]) -> Outcome {
        verb::run(self.dir.path(), self.dir.path(), &self.words(words), &[]).await
    }

    /// The folder of the only incarnation in the repository.
    pub fn incarnation(&self) -> PathBuf {
        std::fs::read_dir(self.dir.join("repository/main")).unwrap().next().unwrap().unwrap().path()
    }
}

/// For PostgreSQL's user as well.
pub fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    user::give(path).unwrap();
}

/// A session in a database.
pub async fn connect(server: &Server, database: &str) -> Client {
    let mut config: tokio_postgres::Config = server.dsn().parse().unwrap();
    let (client, connection) = config.dbname(database).connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
