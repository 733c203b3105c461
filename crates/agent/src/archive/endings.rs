//! What a repository needs and what ends by itself: credentials, and authorities of certificates.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use matriarch_api::ArchiveEnding;
use matriarch_archive::configured::{Configured, Ending};
use tokio::time::Instant;

use crate::certificates;

/// How often the log says the same.
const AGAIN: Duration = Duration::from_secs(86_400);

/// Of each repository, by its name.
#[derive(Debug, Default)]
pub(super) struct Endings {
    of: Vec<(String, Vec<Ending>)>,
    /// What was logged, and when the first of it.
    logged: Option<(Instant, BTreeSet<String>)>,
}

impl Endings {
    /// Reads the files that the section names.
    pub fn read(section: &matriarch_config::Archive, configured: &Configured) -> Endings {
        let of = configured.names().zip(configured.endings()).zip(&section.repositories);
        let of = of.map(|((name, credentials), repository)| {
            let authority = repository.ca.as_deref().and_then(authority);
            (name, credentials.into_iter().chain(authority).collect())
        });
        Endings { of: of.collect(), logged: None }
    }

    /// As the API shows them.
    pub fn of(&self, name: &str, now: Timestamp) -> Vec<ArchiveEnding> {
        let all = self.of.iter().filter(|(known, _)| known == name).flat_map(|(_, endings)| endings);
        let shown = |ending: &Ending| ArchiveEnding {
            at: ending.at.to_string(),
            soon: ending.is_soon(now),
            text: ending.text(now),
        };
        all.map(shown).collect()
    }

    /// Logs what ends soon, once a day.
    pub fn log(&mut self, now: Timestamp) {
        if self.logged.as_ref().is_some_and(|(since, _)| since.elapsed() >= AGAIN) {
            self.logged = None;
        }
        let soon = self.of.iter().flat_map(|(name, endings)| endings.iter().map(move |ending| (name, ending)));
        for (name, ending) in soon.filter(|(_, ending)| ending.is_soon(now)) {
            let (_, logged) = self.logged.get_or_insert_with(|| (Instant::now(), BTreeSet::new()));
            if logged.insert(format!("{name} {}", ending.text(now))) {
                tracing::warn!(repository = name, "{}", ending.text(now));
            }
        }
    }
}

/// The last of the authorities in a file: until it ends one that signs may be there.
fn authority(file: &Path) -> Option<Ending> {
    let (subject, since, at) = certificates::last(file)?;
    let what = format!("the last authority ({subject}) in the CA file {}", file.display());
    Some(Ending { what, at, since: Some(since), remedy: "put the one that follows it there" })
}

#[cfg(test)]
mod tests {
    use matriarch_testkit::certificates::Authority;

    use super::*;

    #[test]
    fn credentials_and_authorities_that_end_soon_are_told_with_their_file() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path());
        authority.issue("soon", Duration::from_secs(3 * 86_400));
        let signature = dir.path().join("signature");
        std::fs::write(&signature, "sv=1&st=2025-01-01&se=2999-01-01T00:00:00Z&sig=a").unwrap();
        let section = serde_json::json!({ "archive": { "repositories": [
            { "location": "azure://shop/archive", "credentials": signature, "ca": authority.cert("soon") },
            { "location": "/srv/archive" },
        ] } });
        let section = matriarch_config::DynamicConfig::from_json(&section).unwrap().archive.unwrap();
        let configured = Configured::new(&section, "main", Duration::ZERO).unwrap();
        let mut endings = Endings::read(&section, &configured);
        let now = Timestamp::now();
        let told = endings.of("azure://shop/archive", now);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(!told[0].soon && told[0].text.contains(&signature.display().to_string()), "{told:?}");
        assert_eq!(told[0].at, "2999-01-01T00:00:00Z");
        // It lives for four days in all.
        let later = now + jiff::SignedDuration::from_hours(60);
        let told = endings.of("azure://shop/archive", later);
        assert!(told[1].soon && told[1].text.contains("soon.pem") && told[1].text.contains("CN=soon"), "{told:?}");
        assert!(endings.of("directory /srv/archive", now).is_empty());
        for _ in 0..2 {
            endings.log(later);
            assert_eq!(endings.logged.as_ref().map(|(_, logged)| logged.len()), Some(1));
        }
    }
}
