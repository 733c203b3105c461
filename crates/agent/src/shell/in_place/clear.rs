//! What was put aside is removed when a person says so, and what was begun and is not wanted goes.

use std::path::Path;

use matriarch_core::decide::Millis;
use matriarch_core::record::Versioned;
use matriarch_postgres::files;
use tokio::sync::oneshot::error::TryRecvError;

use super::super::Shell;
use super::Work;
use crate::in_place::{self, InPlace, Phase, Request};
use crate::restored;

impl Shell {
    pub(super) fn remove_kept(&mut self, seen: &Versioned<InPlace>, mut request: Request, now: Millis) {
        let Some(kept) = seen.value.kept.clone() else {
            if self.leads() {
                self.give_up(seen, request, "nothing is kept", now);
            }
            return;
        };
        if kept.member != *self.options.name() {
            return;
        }
        let data_dir = &self.pg.instance().data_dir;
        if !in_place::is_aside(data_dir, &kept.path) {
            let why = format!("{} is none of the places beside {}", kept.path.display(), data_dir.display());
            return self.give_up(seen, request, &why, now);
        }
        let Some(removing) = &mut self.in_place.removing else {
            match restored::apart({
                let path = kept.path.clone();
                move || async move { remove(&path) }
            }) {
                Ok(removing) => self.in_place.removing = Some(removing),
                Err(why) => self.give_up(seen, request, &why, now),
            }
            return;
        };
        let outcome = match removing.try_recv() {
            Err(TryRecvError::Empty) => return,
            Err(TryRecvError::Closed) => Err("its thread ended: ask again".to_owned()),
            Ok(outcome) => outcome,
        };
        self.in_place.removing = None;
        match outcome {
            Ok(()) => {
                (request.phase, request.text) =
                    (Phase::Done, format!("{} on {} was removed", kept.path.display(), kept.member));
                let record = InPlace { kept: None, request: Some(request), ..seen.value.clone() };
                self.send_in_place(Some(seen.revision), &record, now);
            }
            Err(why) => self.give_up(seen, request, &why, now),
        }
    }

    /// Nothing is asked for: what was begun and is not wanted goes.
    pub(super) fn nothing_to_replace(&mut self) {
        if self.in_place.preparing.is_some() || self.in_place.prepared.is_some() {
            self.in_place = Work::default();
        }
        self.in_place.failure = None;
        if std::mem::replace(&mut self.in_place.swept, true) {
            return;
        }
        let staged = in_place::staged(&self.pg.instance().data_dir);
        if staged.exists() {
            let sweep = move || async move { in_place::clear(&staged) };
            match restored::apart(sweep) {
                Ok(sweeping) => self.in_place.sweeping = Some(sweeping),
                Err(error) => tracing::warn!("what a restore in place has left is not removed: {error}"),
            }
        }
    }
}

fn remove(kept: &Path) -> Result<(), restored::Failed> {
    files::remove_tree(kept)?;
    files::fsync_dir(kept.parent().unwrap_or(Path::new("/")))?;
    Ok(())
}
