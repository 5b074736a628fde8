//! `batch/v1`: pods that are to end.

mod cron_job;
mod job;
mod schedule;

use vaquita_api::registry::Resource;

pub(super) fn resources() -> Vec<Resource> {
    vec![cron_job::resource(), job::resource()]
}
