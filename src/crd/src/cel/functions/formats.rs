//! Named formats, which tell what is wrong with a text.

use vaquita_api::names::{self, Problems};

use super::super::Machine;
use super::super::types::{Opaque, P};
use super::super::value::{Fault, Val};
use super::{Overload, arg, global, member, text};

const FORMAT: P = P::Of(Opaque::Format);

/// A format.
#[derive(Debug)]
pub(in super::super) struct Format {
    name: &'static str,
    check: fn(&str) -> Problems,
}

macro_rules! formats {
    ($($static:ident $name:literal $function:literal $check:expr;)*) => {
        $(static $static: Format = Format { name: $name, check: $check };)*

        static ALL: &[&Format] = &[$(&$static),*];

        /// The functions of formats.
        pub(super) static TABLE: &[Overload] = &[
            $(global($function, &[], FORMAT, |_, _| Ok(Val::Format(&$static))),)*
            global("format.named", &[P::Str], P::Optional(&FORMAT), |args, _| {
                let name = text(args, 0)?;
                let found = ALL.iter().find(|format| format.name == name);
                Ok(found.map_or(Val::Optional(None), |format| Val::some(Val::Format(format))))
            }),
            member("validate", &[FORMAT, P::Str], P::Optional(&P::List(&P::Str)), validate),
        ];
    };
}

formats! {
    LABEL "dns1123Label" "format.dns1123Label" names::dns1123_label;
    SUBDOMAIN "dns1123Subdomain" "format.dns1123Subdomain" names::dns1123_subdomain;
    LABEL_1035 "dns1035Label" "format.dns1035Label" names::dns1035_label;
    QUALIFIED "qualifiedName" "format.qualifiedName" names::qualified_name;
    LABEL_PREFIX "dns1123LabelPrefix" "format.dns1123LabelPrefix" |text| names::dns1123_label(&unprefixed(text));
    SUBDOMAIN_PREFIX "dns1123SubdomainPrefix" "format.dns1123SubdomainPrefix" |text| names::dns1123_subdomain(&unprefixed(text));
    LABEL_1035_PREFIX "dns1035LabelPrefix" "format.dns1035LabelPrefix" |text| names::dns1035_label(&unprefixed(text));
    LABEL_VALUE "labelValue" "format.labelValue" names::label_value;
    URI "uri" "format.uri" |text| plain(text, "uri", "invalid URI for request");
    UUID "uuid" "format.uuid" |text| plain(text, "uuid", "does not match the UUID format");
    BYTE "byte" "format.byte" |text| plain(text, "byte", "invalid base64");
    DATE "date" "format.date" |text| plain(text, "date", "invalid date");
    DATETIME "datetime" "format.datetime" |text| plain(text, "date-time", "invalid datetime");
}

/// Something may follow a dash at the end.
fn unprefixed(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(start) => format!("{start}a"),
        None => text.to_owned(),
    }
}

fn plain(text: &str, format: &str, problem: &str) -> Problems {
    if crate::structural::has_format(format, text) {
        Problems::new()
    } else {
        vec![problem.to_owned()]
    }
}

fn validate<'a>(args: &[Val<'a>], machine: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    let Val::Format(format) = arg(args, 0)? else {
        return Err(Fault::NoSuchOverload);
    };
    let text = text(args, 1)?;
    machine.spend(text.len())?;
    let problems = (format.check)(text);
    if problems.is_empty() {
        return Ok(Val::Optional(None));
    }
    Ok(Val::some(Val::list(
        problems.into_iter().map(Val::text).collect(),
    )))
}
