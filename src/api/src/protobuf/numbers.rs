//! Which number each field has.

use std::collections::HashMap;
use std::sync::LazyLock;

/// What a number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The field of this JSON name.
    Field(&'static str),
    /// A message of this name, whose fields are the parent's in JSON.
    Embedded(&'static str),
}

/// A message's fields, sorted by their numbers.
pub(super) type Message = Vec<(u32, Target)>;
/// Messages by their names.
type Section = HashMap<&'static str, Message>;

static SECTIONS: LazyLock<HashMap<&'static str, Section>> =
    LazyLock::new(|| parse(include_str!("numbers.txt")));

/// The numbers as one group and version sees them: its own messages, then those that all share.
pub(super) struct Numbers {
    sections: Vec<&'static Section>,
}

impl Numbers {
    pub(super) fn of(api_version: &str) -> Self {
        let sections = [api_version, "v1", "meta/v1"].into_iter();
        Self {
            sections: sections.filter_map(|name| SECTIONS.get(name)).collect(),
        }
    }

    /// All fields of a message; none of one that is not known.
    pub(super) fn message(&self, message: &str) -> &'static [(u32, Target)] {
        self.sections
            .iter()
            .find_map(|section| section.get(message))
            .map_or(&[][..], Vec::as_slice)
    }

    pub(super) fn find(&self, message: &str, number: u32) -> Option<Target> {
        let fields = self.message(message);
        let at = fields.binary_search_by_key(&number, |(number, _)| *number);
        at.ok().map(|at| fields[at].1)
    }

    /// The names of all fields of a message, those of embedded messages included.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn fields(&self, message: &str) -> Vec<&'static str> {
        let names = self
            .message(message)
            .iter()
            .flat_map(|(_, target)| match target {
                Target::Field(name) => vec![*name],
                Target::Embedded(inner) => self.fields(inner),
            });
        names.collect()
    }
}

/// Reads the table. It is part of this crate, and a test holds it against the types; a line that made no sense would be
/// missed there.
fn parse(table: &'static str) -> HashMap<&'static str, Section> {
    let mut sections: HashMap<&'static str, Section> = HashMap::new();
    let mut current = "";
    for line in table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            current = name;
            continue;
        }
        let mut words = line.split(' ');
        let message = words.next().unwrap_or_default();
        let fields = words.filter_map(|word| {
            let (name, number) = word.split_once('=')?;
            let target = name
                .strip_prefix('*')
                .map_or(Target::Field(name), Target::Embedded);
            Some((number.parse().ok()?, target))
        });
        let mut fields: Message = fields.collect();
        fields.sort_by_key(|(number, _)| *number);
        sections.entry(current).or_default().insert(message, fields);
    }
    sections
}
