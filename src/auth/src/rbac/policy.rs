//! All roles and bindings, found by whom they are about.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    ops::ControlFlow,
    sync::Arc,
};

use serde::{Deserialize, Deserializer};

use super::{Attributes, Rule};
use crate::user::{User, service_account_name};

/// Whether a role is a namespace's or the cluster's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RoleKind {
    /// `Role`.
    Namespaced,
    /// `ClusterRole`.
    Cluster,
}

impl RoleKind {
    /// The kind with this name.
    pub fn of(kind: &str) -> Option<Self> {
        match kind {
            "Role" => Some(Self::Namespaced),
            "ClusterRole" => Some(Self::Cluster),
            _ => None,
        }
    }

    /// The plural in URLs.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Namespaced => "roles",
            Self::Cluster => "clusterroles",
        }
    }
}

/// A role: its rules and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Empty for a cluster role.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it allows.
    pub rules: Vec<Rule>,
}

/// Which role a binding gives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RoleRef {
    /// Always `rbac.authorization.k8s.io`.
    pub api_group: String,
    /// `Role` or `ClusterRole`.
    pub kind: String,
    /// The role's name.
    pub name: String,
}

/// What kind of thing a binding is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum SubjectKind {
    /// One user.
    User,
    /// All in a group.
    Group,
    /// A service account.
    ServiceAccount,
}

/// Whom a binding is for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Subject {
    /// What it is.
    pub kind: SubjectKind,
    /// Its name.
    pub name: String,
    /// Of a service account only; empty: that of the binding.
    #[serde(default, deserialize_with = "text")]
    pub namespace: String,
}

/// A text that may be null.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// A role given to subjects: in one namespace, or in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Empty for a cluster role binding.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What is given.
    pub role: RoleRef,
    /// To whom.
    pub subjects: Vec<Subject>,
}

impl Subject {
    fn user(&self, binding: &Binding) -> String {
        match self.namespace.as_str() {
            "" => service_account_name(&binding.namespace, &self.name),
            namespace => service_account_name(namespace, &self.name),
        }
    }

    fn is(&self, user: &User, binding: &Binding) -> bool {
        match self.kind {
            SubjectKind::User => *user.name == *self.name,
            SubjectKind::Group => user.is_in(&self.name),
            SubjectKind::ServiceAccount => *user.name == self.user(binding),
        }
    }
}

/// A role that a binding names is not there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{kind}.rbac.authorization.k8s.io {name:?} not found")]
pub struct MissingRole {
    /// `role` or `clusterrole`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
}

/// Why somebody may do something: a binding, and the subject in it that they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    binding: Arc<Binding>,
    subject: Option<Subject>,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Binding {
            namespace,
            name,
            role,
            ..
        } = &*self.binding;
        let (kind, role) = (&role.kind, &role.name);
        match namespace.as_str() {
            "" => write!(f, "ClusterRoleBinding {name:?}")?,
            namespace => write!(f, "RoleBinding {:?}", format!("{name}/{namespace}"))?,
        }
        write!(f, " of {kind} {role:?} to ")?;
        match &self.subject {
            Some(subject) if subject.kind == SubjectKind::ServiceAccount => {
                let of = match subject.namespace.as_str() {
                    "" => namespace,
                    own => own,
                };
                write!(f, "ServiceAccount {:?}", format!("{}/{of}", subject.name))
            }
            Some(subject) => write!(f, "{:?} {:?}", subject.kind, subject.name),
            None => Ok(()),
        }
    }
}

/// Whether somebody may do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// They may; for a master there is no grant to name.
    Allowed(Option<Grant>),
    /// No rule says that they may. Roles that were looked for in vain may be why.
    Refused(Vec<MissingRole>),
}

impl Decision {
    /// Whether they may.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }

    /// The reason, as access reviews and refusals tell it. Empty if there is nothing to say.
    pub fn reason(&self) -> String {
        match self {
            Self::Allowed(Some(grant)) => format!("RBAC: allowed by {grant}"),
            Self::Allowed(None) => String::new(),
            Self::Refused(missing) => aggregate(missing)
                .map(|errors| format!("RBAC: {errors}"))
                .unwrap_or_default(),
        }
    }
}

/// Several errors as one text: `a`, or `[a, b]`. `None` if there are none.
pub(crate) fn aggregate(errors: &[MissingRole]) -> Option<String> {
    let distinct: BTreeSet<String> = errors.iter().map(ToString::to_string).collect();
    let texts: Vec<String> = distinct.into_iter().collect();
    match texts.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

/// The bindings of one namespace, or of the cluster.
#[derive(Debug, Default)]
struct Bindings {
    all: Vec<Arc<Binding>>,
    /// Positions in `all`, by user name; service accounts are users.
    users: HashMap<String, Vec<usize>>,
    groups: HashMap<String, Vec<usize>>,
}

impl Bindings {
    fn add(&mut self, binding: &Arc<Binding>) {
        let at = self.all.len();
        for subject in &binding.subjects {
            let places = match subject.kind {
                SubjectKind::User => self.users.entry(subject.name.clone()),
                SubjectKind::Group => self.groups.entry(subject.name.clone()),
                SubjectKind::ServiceAccount => self.users.entry(subject.user(binding)),
            }
            .or_default();
            if places.last() != Some(&at) {
                places.push(at);
            }
        }
        self.all.push(binding.clone());
    }

    /// Those for `user`, in their order.
    fn of<'b>(&'b self, user: &User) -> impl Iterator<Item = &'b Arc<Binding>> {
        let mut places: Vec<usize> = self.users.get(&*user.name).cloned().unwrap_or_default();
        for group in user.groups.iter() {
            places.extend(self.groups.get(group).into_iter().flatten());
        }
        places.sort_unstable();
        places.dedup();
        places.into_iter().filter_map(|at| self.all.get(at))
    }
}

/// All roles and bindings at one moment.
#[derive(Debug, Default)]
pub struct Policy {
    cluster_roles: HashMap<String, Arc<Role>>,
    /// By namespace, then name.
    roles: HashMap<String, HashMap<String, Arc<Role>>>,
    cluster: Bindings,
    /// By namespace.
    namespaces: HashMap<String, Bindings>,
}

impl Policy {
    /// The policy that these make. What has no namespace is the cluster's. Reasons name the first binding that suffices,
    /// in the given order.
    pub fn new(
        roles: impl IntoIterator<Item = Arc<Role>>,
        bindings: impl IntoIterator<Item = Arc<Binding>>,
    ) -> Self {
        let mut policy = Self::default();
        for role in roles {
            let names = match role.namespace.as_str() {
                "" => &mut policy.cluster_roles,
                namespace => policy.roles.entry(namespace.to_owned()).or_default(),
            };
            names.insert(role.name.clone(), role);
        }
        for binding in bindings {
            match binding.namespace.as_str() {
                "" => policy.cluster.add(&binding),
                namespace => policy
                    .namespaces
                    .entry(namespace.to_owned())
                    .or_default()
                    .add(&binding),
            }
        }
        policy
    }

    /// Whether `user` may do what `wanted` says, and why.
    pub fn authorize(&self, user: &User, wanted: &Attributes<'_>) -> Decision {
        if user.is_master() {
            return Decision::Allowed(None);
        }
        let mut missing = Vec::new();
        let mut grant = None;
        self.visit(user, wanted.namespace(), |binding, role| match role {
            Ok(role) if role.rules.iter().any(|rule| rule.allows(wanted)) => {
                grant = Some(binding.clone());
                ControlFlow::Break(())
            }
            Ok(_) => ControlFlow::Continue(()),
            Err(error) => {
                missing.push(error);
                ControlFlow::Continue(())
            }
        });
        match grant {
            Some(binding) => {
                let subject = binding
                    .subjects
                    .iter()
                    .find(|subject| subject.is(user, &binding));
                Decision::Allowed(Some(Grant {
                    subject: subject.cloned(),
                    binding,
                }))
            }
            None => Decision::Refused(missing),
        }
    }

    /// Every rule that holds for `user` in `namespace` (at the cluster scope, if that is empty), and the roles that
    /// bindings name in vain.
    pub fn rules(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<MissingRole>) {
        let (mut rules, mut missing) = (Vec::new(), Vec::new());
        self.visit(user, namespace, |_, role| {
            match role {
                Ok(role) => rules.extend(role.rules.iter().cloned()),
                Err(error) => missing.push(error),
            }
            ControlFlow::Continue(())
        });
        (rules, missing)
    }

    /// The role that a binding in `namespace` means.
    pub fn role(&self, role: &RoleRef, namespace: &str) -> Result<&Arc<Role>, MissingRole> {
        let (kind, found) = match RoleKind::of(&role.kind) {
            Some(RoleKind::Cluster) => ("clusterrole", self.cluster_roles.get(&role.name)),
            _ => (
                "role",
                self.roles
                    .get(namespace)
                    .and_then(|names| names.get(&role.name)),
            ),
        };
        found.ok_or_else(|| MissingRole {
            kind,
            name: role.name.clone(),
        })
    }

    /// Shows `look` every binding for `user`, the cluster's before those of `namespace`, each with its role.
    fn visit(
        &self,
        user: &User,
        namespace: &str,
        mut look: impl FnMut(&Arc<Binding>, Result<&Role, MissingRole>) -> ControlFlow<()>,
    ) {
        let scopes = [Some(&self.cluster), self.namespaces.get(namespace)];
        for binding in scopes.into_iter().flatten().flat_map(|all| all.of(user)) {
            let role = self.role(&binding.role, &binding.namespace);
            if look(binding, role.map(AsRef::as_ref)).is_break() {
                return;
            }
        }
    }
}
