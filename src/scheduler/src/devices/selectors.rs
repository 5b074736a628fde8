//! Selectors of devices: expressions in CEL, each compiled once, and asked once about each device.

use std::{cell::Cell, collections::HashMap, sync::Arc};

use vaquita_crd::cel::{Input, ObjectTy, Opaque, Outcome, Program, Scope, Ty};

use super::inventory::Device;

/// How many selectors are kept compiled. When there are more, all are compiled again as they are needed.
const SELECTORS: usize = 512;
/// How many answers of a selector are kept.
const ANSWERS: usize = 64 * 1024;
/// How many steps a selector may take for one device.
const STEPS: u64 = 20_000;
/// How many steps all selectors together may take for one decision.
pub(super) const BUDGET: u64 = 2_000_000;

/// What a selector says of a device, or why it says nothing.
pub(super) type Answer = Result<bool, Arc<str>>;

/// The selectors that are in use.
#[derive(Debug, Default)]
pub(super) struct Selectors(HashMap<String, Selector>);

#[derive(Debug)]
struct Selector {
    program: Result<Program, Arc<str>>,
    /// By the devices' numbers.
    answers: HashMap<u64, Answer>,
}

impl Selectors {
    /// Whether the expression is one at all; if not, why.
    pub(super) fn check(&mut self, source: &str) -> Result<(), Arc<str>> {
        match &self.get(source).program {
            Ok(_) => Ok(()),
            Err(why) => Err(Arc::clone(why)),
        }
    }

    /// Whether the expression selects the device. What it takes is taken from `budget`.
    pub(super) fn select(&mut self, source: &str, device: &Device, budget: &Cell<u64>) -> Answer {
        let selector = self.get(source);
        if let Some(answer) = selector.answers.get(&device.number) {
            return answer.clone();
        }
        let program = selector.program.as_ref().map_err(Arc::clone)?;
        let allowed = budget.get().min(STEPS);
        if allowed == 0 {
            return Err("the selectors take too many steps".into());
        }
        let mut left = allowed;
        let outcome = program.evaluate(&[Input::Value(&device.view)], &mut left);
        budget.set(budget.get().saturating_sub(allowed - left));
        let answer: Answer = match outcome {
            Ok(Outcome::Bool(selected)) => Ok(selected),
            Ok(other) => Err(format!("must evaluate to bool, not to {other:?}").into()),
            Err(fault) => Err(format!("CEL runtime error: {fault}").into()),
        };
        // Less than a whole evaluation may need is no answer for ever.
        if answer.is_ok() || allowed == STEPS {
            if selector.answers.len() >= ANSWERS {
                selector.answers.clear();
            }
            selector.answers.insert(device.number, answer.clone());
        }
        answer
    }

    fn get(&mut self, source: &str) -> &mut Selector {
        if self.0.len() >= SELECTORS && !self.0.contains_key(source) {
            self.0.clear();
        }
        self.0.entry(source.to_owned()).or_insert_with(|| Selector {
            program: compile(source),
            answers: HashMap::new(),
        })
    }
}

fn compile(source: &str) -> Result<Program, Arc<str>> {
    // Drivers of all domains are asked about: one that says nothing has no attributes there.
    let by_domain = |value: Ty| {
        let names = Ty::Map(Arc::new(Ty::Str), Arc::new(value));
        Ty::Complete(Arc::new(names))
    };
    let device = ObjectTy::new([
        ("driver", Ty::Str),
        ("allowMultipleAllocations", Ty::Bool),
        ("attributes", by_domain(Ty::Tagged)),
        ("capacity", by_domain(Ty::Opaque(Opaque::Quantity))),
    ]);
    let scope = Scope::default().with("device", Ty::Object(Arc::new(device)));
    let program =
        Program::compile(source, &scope).map_err(|error| format!("CEL compile error: {error}"))?;
    match program.ty() {
        Ty::Bool | Ty::Dyn => Ok(program),
        other => Err(format!("CEL compile error: must evaluate to bool, not to {other}").into()),
    }
}
