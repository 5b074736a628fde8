//! Nobody gives away more than they have.
//!
//! Whoever writes a role must hold every permission in it, and whoever binds one every permission that it gives, in the
//! namespace in question. Two verbs lift this: `escalate` on the role, and `bind` on the role that a binding names.

use crate::{
    User,
    rbac::quoted,
    rbac::{
        Attributes, MissingRole, Policy, Resource, Role, RoleKind, RoleRef, Rule, compact, missing,
    },
};

/// The group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Why a role or binding may not be written. The texts are what clients are told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Escalation {
    /// It gives what its writer does not have.
    #[error(
        "user {user:?} (groups={groups}) is attempting to grant RBAC permissions not currently held:\n{rules}{}",
        resolution(.unresolved)
    )]
    NotHeld {
        /// Who wrote it.
        user: String,
        /// Their groups, as `["a" "b"]`.
        groups: String,
        /// What they lack, a rule on each line.
        rules: String,
        /// Roles that are bound to them but are not there.
        unresolved: Vec<MissingRole>,
    },
    /// An aggregated role takes in whatever is labelled: that is for those who have everything.
    #[error("must have cluster-admin privileges to use an aggregationRule")]
    Aggregation,
}

fn resolution(missing: &[MissingRole]) -> String {
    let texts: Vec<String> = missing.iter().map(ToString::to_string).collect();
    match texts.as_slice() {
        [] => String::new(),
        _ => format!("; resolution errors: [{}]", texts.join(" ")),
    }
}

/// Why a binding may not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// It gives what its writer does not have.
    #[error(transparent)]
    Escalation(#[from] Escalation),
    /// The role that it names is not there, so nobody can tell what it would give.
    #[error(transparent)]
    Missing(#[from] MissingRole),
}

/// Who writes what where.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// All roles and bindings as they are before the write.
    pub policy: &'a Policy,
    /// Who writes.
    pub user: &'a User,
    /// The namespace of what is written; empty for the cluster's.
    pub namespace: &'a str,
}

impl Writer<'_> {
    /// Whether a role of these rules may be written. `aggregates` says that it takes other roles in, or did so before.
    pub fn may_write_role(&self, role: &Role, aggregates: bool) -> Result<(), Escalation> {
        let kind = match self.namespace {
            "" => RoleKind::Cluster,
            _ => RoleKind::Namespaced,
        };
        if self.has_verb("escalate", GROUP, kind, &role.name) {
            return Ok(());
        }
        self.must_hold(&role.rules)?;
        if aggregates {
            self.must_hold(&Rule::everything())
                .map_err(|_| Escalation::Aggregation)?;
        }
        Ok(())
    }

    /// Whether a binding to `role` may be written.
    pub fn may_bind(&self, role: &RoleRef) -> Result<(), BindError> {
        if self.user.is_master() {
            return Ok(());
        }
        let kind = RoleKind::of(&role.kind).unwrap_or(RoleKind::Namespaced);
        if self.has_verb("bind", &role.api_group, kind, &role.name) {
            return Ok(());
        }
        let bound = self.policy.role(role, self.namespace)?;
        Ok(self.must_hold(&bound.rules)?)
    }

    fn has_verb(&self, verb: &str, group: &str, kind: RoleKind, name: &str) -> bool {
        let resource = Resource {
            group,
            resource: kind.plural(),
            subresource: "",
            namespace: self.namespace,
            name,
        };
        let wanted = Attributes::resource(verb, resource);
        self.policy.authorize(self.user, &wanted).is_allowed()
    }

    /// Whether the writer holds all of `rules`.
    fn must_hold(&self, rules: &[Rule]) -> Result<(), Escalation> {
        let (held, unresolved) = self.policy.rules(self.user, self.namespace);
        let lacking = missing(&held, rules);
        if lacking.is_empty() {
            return Ok(());
        }
        let mut lines: Vec<String> = compact(lacking).iter().map(ToString::to_string).collect();
        lines.sort();
        lines.dedup();
        Err(Escalation::NotHeld {
            user: self.user.name.to_string(),
            groups: quoted(&self.user.groups),
            rules: lines.join("\n"),
            unresolved,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::rbac::{Binding, Subject, SubjectKind};

    fn rule(resource: &str, verbs: &[&str]) -> Rule {
        Rule {
            api_groups: vec![if resource == "pods" { "" } else { GROUP }.to_owned()],
            resources: vec![resource.to_owned()],
            verbs: verbs.iter().map(ToString::to_string).collect(),
            ..Rule::default()
        }
    }

    fn role(name: &str, rules: &[Rule]) -> Role {
        Role {
            namespace: String::new(),
            name: name.to_owned(),
            rules: rules.to_vec(),
        }
    }

    fn cluster_role(name: &str) -> RoleRef {
        RoleRef {
            api_group: GROUP.to_owned(),
            kind: "ClusterRole".to_owned(),
            name: name.to_owned(),
        }
    }

    /// Jane, who holds `rules` everywhere; and a cluster role `big` of all pods.
    fn jane_with(rules: &[Rule]) -> (Policy, User) {
        let binding = Binding {
            namespace: String::new(),
            name: "b".to_owned(),
            role: cluster_role("hers"),
            subjects: vec![Subject {
                kind: SubjectKind::User,
                name: "jane".to_owned(),
                namespace: String::new(),
            }],
        };
        let both = [role("hers", rules), role("big", &[rule("pods", &["*"])])].map(Arc::new);
        let jane = User::new("jane", ["dev"]);
        (Policy::new(both, [Arc::new(binding)]), jane)
    }

    #[test]
    fn a_role_gives_no_more_than_its_writer_has() {
        let (policy, jane) = jane_with(&[rule("pods", &["get", "list"])]);
        let writer = Writer {
            policy: &policy,
            user: &jane,
            namespace: "shop",
        };
        let less = role("r", &[rule("pods", &["list"])]);
        assert_eq!(writer.may_write_role(&less, false), Ok(()));
        let more = role("r", &[rule("pods", &["list", "delete", "create"])]);
        assert_eq!(
            writer.may_write_role(&more, false).unwrap_err().to_string(),
            "user \"jane\" (groups=[\"dev\" \"system:authenticated\"]) is attempting to grant RBAC permissions not \
             currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"create\"]}"
        );
        assert_eq!(
            writer.may_write_role(&less, true),
            Err(Escalation::Aggregation)
        );
    }

    #[test]
    fn escalate_and_bind_lift_the_rule() {
        let (policy, jane) = jane_with(&[rule("clusterroles", &["escalate", "bind"])]);
        let mut writer = Writer {
            policy: &policy,
            user: &jane,
            namespace: "",
        };
        assert_eq!(
            writer.may_write_role(&role("r", &Rule::everything()), true),
            Ok(())
        );
        assert_eq!(writer.may_bind(&cluster_role("big")), Ok(()));
        // The verb was given for cluster roles, not for those of namespaces.
        writer.namespace = "shop";
        assert!(
            writer
                .may_write_role(&role("r", &Rule::everything()), false)
                .is_err()
        );
    }

    #[test]
    fn a_binding_needs_the_role_and_what_is_in_it() {
        let (policy, jane) = jane_with(&[rule("pods", &["get"])]);
        let writer = Writer {
            policy: &policy,
            user: &jane,
            namespace: "shop",
        };
        assert_eq!(writer.may_bind(&cluster_role("hers")), Ok(()));
        assert!(matches!(
            writer.may_bind(&cluster_role("big")),
            Err(BindError::Escalation(_))
        ));
        assert!(matches!(
            writer.may_bind(&cluster_role("none")),
            Err(BindError::Missing(_))
        ));
    }
}
