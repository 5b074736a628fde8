//! Certificates that are replaced before they end, while the cluster runs.

use std::{path::PathBuf, time::Duration};

use jiff::{Timestamp, ToSpan as _, tz::TimeZone};

use crate::{Pki, PkiError};

/// How often it is looked whether something is due. The wall clock is asked each time, as it may be set at any time and
/// stands still while the machine sleeps.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// How long before the authority itself ends this is said at each start and renewal.
const WARN_DAYS: i64 = 365;

/// Where the administrator's credentials are kept up to date; see [`Pki::write_admin_files`].
#[derive(Debug, Clone)]
pub struct AdminFiles {
    /// The directory of `admin.kubeconfig` and `admin.token`.
    pub dir: PathBuf,
    /// The URL of the cluster, such as `https://127.0.0.1:6443`.
    pub server: String,
}

/// Renews certificates as they become due, for as long as it is polled, and writes `files` again after the administrator's
/// was. `now` is the wall clock.
///
/// What fails is logged and tried again a minute later.
pub async fn keep_fresh(pki: &Pki, files: &AdminFiles, now: impl Fn() -> Timestamp) {
    let mut to_write = false;
    let mut told = None;
    tell_of_the_end(pki, now());
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match look(pki, files, &mut to_write, now()) {
            Ok(false) => told = None,
            Ok(true) => {
                told = None;
                tell_of_the_end(pki, now());
            }
            Err(error) => {
                let error = error.to_string();
                // Once, not each minute.
                if told.as_ref() != Some(&error) {
                    tracing::warn!(%error, "cannot renew the cluster's certificates; will try again");
                    told = Some(error);
                }
            }
        }
    }
}

/// Renews what is due. Says whether something was.
fn look(
    pki: &Pki,
    files: &AdminFiles,
    to_write: &mut bool,
    now: Timestamp,
) -> Result<bool, PkiError> {
    let renewed = pki.renew(now)?;
    if renewed.serving {
        tracing::info!("the API's serving certificate was renewed");
    }
    *to_write |= renewed.admin;
    if *to_write {
        pki.write_admin_files(&files.dir, &files.server)?;
        *to_write = false;
        tracing::info!(dir = %files.dir.display(), "the administrator's certificate was renewed");
    }
    Ok(renewed.serving || renewed.admin)
}

fn tell_of_the_end(pki: &Pki, now: Timestamp) {
    let last = now.to_zoned(TimeZone::UTC).saturating_add(WARN_DAYS.days());
    if pki.ends() < last.timestamp() {
        tracing::warn!(
            ends = %pki.ends(),
            "the cluster's authority is about to end: clients must be given a new one before"
        );
    }
}
