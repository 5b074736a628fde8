//! `ServiceCIDR`: ranges from which Services get their addresses.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde_json::{Value, json};

use crate::checks::{Cidr, IMMUTABLE, canonical_cidr, joined};
use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;

pub(super) fn resource() -> Resource {
    stored::<ServiceCIDR>("servicecidr", false).with_status()
}

impl Kind<Here> for ServiceCIDR {
    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("CIDRs", "The ranges, one for each family of addresses."),
        Column::AGE,
    ];

    fn apply_defaults(&mut self) {
        self.spec.get_or_insert_default();
        self.status.get_or_insert_default();
    }

    fn prepare_create(object: &mut vaquita_api::Object) {
        object.insert("status".to_owned(), json!({}));
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::root("spec");
        validate_ranges(ranges(self), &path.child("cidrs"), errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let path = Path::root("spec");
        let path = path.child("cidrs");
        let (new, old) = (ranges(self), ranges(old));
        // One family may be joined by the other; nothing else changes.
        let grows = old.len() == 1 && new.len() == 2;
        if !grows && new.len() != old.len() {
            errors.push(FieldError::invalid(&path, json!(new), IMMUTABLE));
            return;
        }
        for (at, (new, old)) in new.iter().zip(old).enumerate() {
            if new != old {
                errors.push(FieldError::invalid(
                    &path.index(at),
                    new.as_str(),
                    IMMUTABLE,
                ));
            }
        }
        if grows {
            validate_ranges(new, &path, errors);
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            self.name_cell(),
            joined(ranges(self), ""),
            self.age_cell(now),
        ]
    }
}

fn ranges(of: &ServiceCIDR) -> &[String] {
    let spec = of.spec.as_ref();
    spec.and_then(|spec| spec.cidrs.as_deref())
        .unwrap_or_default()
}

fn validate_ranges(ranges: &[String], path: &Path<'_>, errors: &mut Errors) {
    if ranges.is_empty() {
        errors.push(FieldError::required(path, "at least one CIDR required"));
        return;
    }
    if ranges.len() > 2 {
        let value = json!({"cidrs": ranges});
        let detail = "may only hold up to 2 values";
        errors.push(FieldError::invalid(path, value, detail));
        return;
    }
    for (at, range) in ranges.iter().enumerate() {
        canonical_cidr(range, &path.index(at), errors);
    }
    let families: Vec<bool> = ranges
        .iter()
        .filter_map(|range| Some(Cidr::parse(range)?.network.is_ipv4()))
        .collect();
    if matches!(families[..], [first, second] if first == second) {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(FieldError::invalid(path, json!(ranges), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

    #[allow(
        clippy::needless_pass_by_value,
        reason = "reads better where it is called"
    )]
    fn service_cidr(ranges: Value) -> Value {
        json!({"metadata": {"name": "more"}, "spec": {"cidrs": ranges}})
    }

    #[test]
    fn may_grow_by_the_other_family() {
        let old = created(&resource(), service_cidr(json!(["10.0.0.0/16"])));
        assert_stable(&resource(), &old);
        let row = resource().row(&old, Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(row), json!(["more", "10.0.0.0/16", "0s"]));
        let with = |ranges| {
            let new = changed(&old, |object| object["spec"]["cidrs"] = ranges);
            causes(updated(&resource(), &old, new, Part::Main))
        };
        assert_eq!(with(json!(["10.0.0.0/16", "2001:db8::/112"])), [""; 0]);
        assert_eq!(
            with(json!(["10.1.0.0/16"])),
            ["spec.cidrs[0]: Invalid value: \"10.1.0.0/16\": field is immutable"]
        );
        assert_eq!(
            with(json!([])),
            ["spec.cidrs: Invalid value: []: field is immutable"]
        );
    }

    #[test]
    fn has_one_range_of_each_family() {
        let with = |ranges| refused(&resource(), service_cidr(ranges));
        assert_eq!(
            with(json!([])),
            ["spec.cidrs: Required value: at least one CIDR required"]
        );
        assert_eq!(
            with(json!(["10.0.0.0/16", "10.1.0.0/16"])),
            [
                "spec.cidrs: Invalid value: [\"10.0.0.0/16\",\"10.1.0.0/16\"]: may specify no more than one IP for each IP \
                 family, i.e 192.168.0.0/24 and 2001:db8::/64"
            ]
        );
        assert_eq!(with(json!(["a", "b", "c"])).len(), 1);
    }
}
