//! The job of making a member's data anew: from a backup where that is wanted and serves, else from another member.

use std::sync::atomic::Ordering;

use matriarch_core::decide::JobFailure;
use matriarch_postgres::clone::{self, CloneOptions, OldData};

use crate::from_backup::Unserved;
use crate::jobs::{JobContext, JobReport, failed, keep_wal, settle_wal};
use crate::{claim, from_backup, restored};

pub(crate) async fn copy(context: &JobContext) -> Result<JobReport, JobFailure> {
    keep_wal(context).await?;
    // What one that was given up still writes must not get into this one's directory.
    restored::turn().await;
    let note = match from_archive(context).await {
        Some(Ok(text)) => text,
        // A copy of a member would only fill the volume.
        Some(Err(Unserved::Room(why))) => return Err(failed(why)),
        tried => {
            if let Some(Err(Unserved::Archive(why))) = tried {
                tracing::warn!("the archive does not serve to copy from, another member does: {why}");
            }
            restored::clear_spaces(&context.instance.data_dir).map_err(failed)?;
            from_member(context).await?
        }
    };
    settle_wal(context).await;
    claim::clear(&context.instance).map_err(failed)?;
    Ok(JobReport { note: Some(format!("copied {note}")), ..JobReport::default() })
}

async fn from_archive(context: &JobContext) -> Option<Result<String, Unserved>> {
    let order = context.from_backup.as_ref()?;
    if context.unproved.swap(false, Ordering::AcqRel) {
        let why = "the copy before this one came from it and never streamed";
        return Some(Err(Unserved::Archive(why.to_owned())));
    }
    let done = from_backup::perform(&context.instance, order, &context.log, &context.progress).await;
    if done.is_ok() {
        context.unproved.store(true, Ordering::Release);
    }
    Some(done)
}

async fn from_member(context: &JobContext) -> Result<String, JobFailure> {
    let Some(source) = &context.clone_source else { return Err(failed("there is no leader to copy from")) };
    let options = CloneOptions { old_data: OldData::KeepUntilDone, ..CloneOptions::default() };
    clone::clone_from(&context.instance, source, &options, &context.progress).await.map_err(failed)?;
    Ok(format!("from {}:{}", source.host, source.port))
}
