//! Checking: from the parser's syntax tree to an expression whose names and types fit.

use std::sync::Arc;

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, SourceInfo};
use cel::parser::Parser;

use super::functions::{self, Overload};
use super::ir::{Access, Ir, Literal, Loop};
use super::types::{Bindings, Ty, joined};
use super::{CompileError, DEPTH_LIMIT, Program, Scope};
use crate::structural::compile_pattern;

/// How many mistakes are told at once.
const ERRORS: usize = 10;
/// What the names of types stand for.
const TYPES: [&str; 12] = [
    "bool",
    "bytes",
    "double",
    "dyn",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "type",
    "uint",
    "google.protobuf.Timestamp",
];

/// Parses and checks `source`. Needs a deep stack.
pub(super) fn compile(source: &str, scope: &Scope) -> Result<Program, CompileError> {
    // An environment without macros: calls stay as they were written, and become loops here.
    let parser: Parser = cel::Env::default()
        .parser()
        .enable_ident_escape_syntax(true)
        .max_recursion_depth(u16::try_from(DEPTH_LIMIT).unwrap_or(u16::MAX));
    let (tree, info) = parser
        .parse_with_source_info(source)
        .map_err(|errors| CompileError(format!("compilation failed: {errors}")))?;
    let mut checker = Checker {
        source,
        info,
        variables: scope.variables.clone(),
        used: vec![false; scope.variables.len()],
        errors: Vec::new(),
        depth: 0,
    };
    let (ir, ty) = checker.expr(&tree);
    if !checker.errors.is_empty() {
        let text = checker.errors.join("\n");
        return Err(CompileError(format!("compilation failed: {text}")));
    }
    Ok(Program {
        ir,
        ty,
        used: checker.used,
        variables: scope.variables.clone(),
        patterns: Arc::default(),
    })
}

struct Checker<'s> {
    source: &'s str,
    info: SourceInfo,
    variables: Vec<(String, Ty)>,
    /// Which of the scope's variables are named.
    used: Vec<bool>,
    errors: Vec<String>,
    depth: usize,
}

/// What is known of a value's type before there is the value.
fn seen(ty: &Ty) -> Ty {
    match ty {
        Ty::Tagged => Ty::Dyn,
        other => other.clone(),
    }
}

/// Stands for what is wrong.
fn nothing() -> (Ir, Ty) {
    (Ir::Literal(Literal::Null), Ty::Dyn)
}

impl Checker<'_> {
    /// Notes a mistake with its place, in the form that the reference implementation prints.
    fn error(&mut self, id: u64, message: &str) -> (Ir, Ty) {
        if self.errors.len() < ERRORS {
            let offset = self.info.offset_for(id).map_or(0, |(start, _)| start);
            let offset = usize::try_from(offset).unwrap_or_default();
            let (mut line, mut column, mut text) = (1, 0, String::new());
            for (at, c) in self.source.chars().enumerate() {
                if at == offset {
                    break;
                }
                column += 1;
                if c == '\n' {
                    (line, column) = (line + 1, 0);
                }
            }
            text.push_str(self.source.lines().nth(line - 1).unwrap_or_default());
            let dots = ".".repeat(column);
            self.errors.push(format!(
                "ERROR: <input>:{line}:{}: {message}\n | {text}\n | {dots}^",
                column + 1
            ));
        }
        nothing()
    }

    fn expr(&mut self, expr: &IdedExpr) -> (Ir, Ty) {
        if self.depth >= DEPTH_LIMIT {
            let message = format!("expression recursion limit exceeded: {DEPTH_LIMIT}");
            return self.error(expr.id, &message);
        }
        self.depth += 1;
        let checked = match &expr.expr {
            Expr::Literal(literal) => constant(literal),
            Expr::Ident(name) => self.ident(expr.id, name),
            Expr::Select(select) => self.select(expr.id, select, Access::Get),
            Expr::Call(call) => self.call(expr.id, call),
            Expr::List(list) => {
                let mut items = Vec::with_capacity(list.elements.len());
                let mut item_ty: Option<Ty> = None;
                for (at, element) in list.elements.iter().enumerate() {
                    let may_miss = list.optional_indices.contains(&at);
                    let (item, ty) = self.expr(element);
                    let ty = if may_miss { inner(&ty) } else { ty };
                    item_ty = Some(match item_ty {
                        Some(before) => joined(before, ty),
                        None => ty,
                    });
                    items.push((item, may_miss));
                }
                (Ir::List(items), Ty::list(item_ty.unwrap_or(Ty::Dyn)))
            }
            Expr::Map(map) => self.map(expr.id, &map.entries),
            Expr::Struct(_) => self.error(expr.id, "undeclared reference to a message type"),
            Expr::Comprehension(_) | Expr::Unspecified => {
                self.error(expr.id, "unsupported expression")
            }
        };
        self.depth -= 1;
        checked
    }

    fn ident(&mut self, id: u64, name: &str) -> (Ir, Ty) {
        let name = name.strip_prefix('.').unwrap_or(name);
        let found = self
            .variables
            .iter()
            .rposition(|(variable, _)| variable == name);
        if let Some(at) = found {
            if let Some(used) = self.used.get_mut(at) {
                *used = true;
            }
            let ty = self.variables.get(at).map_or(Ty::Dyn, |(_, ty)| ty.clone());
            return (Ir::Variable(at), ty);
        }
        match TYPES.iter().find(|ty| **ty == name) {
            Some(ty) => (Ir::Literal(Literal::Type(ty)), Ty::Type),
            None => self.error(
                id,
                &format!("undeclared reference to '{name}' (in container '')"),
            ),
        }
    }

    fn is_variable(&self, name: &str) -> bool {
        self.variables.iter().any(|(variable, _)| variable == name)
    }

    fn select(&mut self, id: u64, select: &SelectExpr, access: Access) -> (Ir, Ty) {
        if let Some(name) = type_name(select).filter(|_| access == Access::Get) {
            return (Ir::Literal(Literal::Type(name)), Ty::Type);
        }
        let (of, ty) = self.expr(&select.operand);
        let access = if select.test { Access::Has } else { access };
        self.field(id, of, &ty, &select.field, access)
    }

    fn field(&mut self, id: u64, of: Ir, ty: &Ty, name: &str, access: Access) -> (Ir, Ty) {
        let optional = matches!(ty, Ty::Optional(_)) || access == Access::Optional;
        let (field, found) = match inner(ty) {
            Ty::Object(object) => match object.field(name) {
                Some((json, ty)) => (json.to_owned(), ty.clone()),
                None => return self.error(id, &format!("undefined field '{name}'")),
            },
            Ty::Map(_, value) | Ty::Complete(value) => (name.to_owned(), seen(&value)),
            Ty::Dyn | Ty::Null => (name.to_owned(), Ty::Dyn),
            other => {
                let message = format!("type '{other}' does not support field selection");
                return self.error(id, &message);
            }
        };
        let ty = match access {
            Access::Has => Ty::Bool,
            _ if optional && !matches!(found, Ty::Optional(_)) => Ty::Optional(Arc::new(found)),
            _ => found,
        };
        let select = Ir::Select {
            of: Box::new(of),
            field,
            access,
        };
        (select, ty)
    }

    fn map(&mut self, id: u64, entries: &[cel::common::ast::IdedEntryExpr]) -> (Ir, Ty) {
        let mut checked = Vec::with_capacity(entries.len());
        let (mut key_ty, mut value_ty): (Option<Ty>, Option<Ty>) = (None, None);
        for entry in entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else {
                return self.error(id, "unsupported expression");
            };
            let (key, found_key) = self.expr(&entry.key);
            let (value, found) = self.expr(&entry.value);
            let found = if entry.optional { inner(&found) } else { found };
            key_ty = Some(match key_ty {
                Some(before) => joined(before, found_key),
                None => found_key,
            });
            value_ty = Some(match value_ty {
                Some(before) => joined(before, found),
                None => found,
            });
            checked.push((key, value, entry.optional));
        }
        let ty = Ty::Map(
            Arc::new(key_ty.unwrap_or(Ty::Dyn)),
            Arc::new(value_ty.unwrap_or(Ty::Dyn)),
        );
        (Ir::Map(checked), ty)
    }

    fn call(&mut self, id: u64, call: &CallExpr) -> (Ir, Ty) {
        let name = call.func_name.as_str();
        if let Some(special) = self.special(id, call) {
            return special;
        }
        match &call.target {
            None => {
                let (args, types) = self.all(&call.args);
                self.resolve(id, name, false, args, &types)
            }
            Some(target) => {
                // `ip.isCanonical(...)` is a function with a dot in its name.
                if let Expr::Ident(space) = &target.expr
                    && !self.is_variable(space)
                {
                    let qualified = format!("{space}.{name}");
                    if functions::exists(&qualified) {
                        let (args, types) = self.all(&call.args);
                        return self.resolve(id, &qualified, false, args, &types);
                    }
                }
                let (first, first_ty) = self.expr(target);
                let (rest, rest_types) = self.all(&call.args);
                let args = std::iter::once(first).chain(rest).collect();
                let types: Vec<Ty> = std::iter::once(first_ty).chain(rest_types).collect();
                self.resolve(id, name, true, args, &types)
            }
        }
    }

    fn all(&mut self, args: &[IdedExpr]) -> (Vec<Ir>, Vec<Ty>) {
        args.iter().map(|arg| self.expr(arg)).unzip()
    }

    /// Finds the overloads that fit.
    fn resolve(
        &mut self,
        id: u64,
        name: &str,
        member: bool,
        args: Vec<Ir>,
        types: &[Ty],
    ) -> (Ir, Ty) {
        let mut candidates: Vec<&'static Overload> = Vec::new();
        let mut result: Option<Ty> = None;
        for overload in functions::named(name, member) {
            if overload.params.len() != types.len() {
                continue;
            }
            let mut bindings = Bindings::default();
            let fits = overload
                .params
                .iter()
                .zip(types)
                .all(|(param, ty)| param.accepts(ty, &mut bindings));
            if fits {
                let ty = overload.result.result(&bindings);
                result = Some(match result {
                    Some(before) if before != ty => Ty::Dyn,
                    _ => ty,
                });
                candidates.push(overload);
            }
        }
        let Some(ty) = result else {
            return self.no_overload(id, name, member, types);
        };
        if matches!(name, "matches" | "find" | "findAll")
            && let Some(Ir::Literal(Literal::Str(pattern))) = args.get(1)
            && let Err(error) = compile_pattern(pattern)
        {
            return self.error(id, &format!("invalid {name} argument: {error}"));
        }
        (Ir::Call { candidates, args }, ty)
    }

    fn no_overload(&mut self, id: u64, name: &str, member: bool, types: &[Ty]) -> (Ir, Ty) {
        if !functions::exists(name) {
            let message = format!("undeclared reference to '{name}' (in container '')");
            return self.error(id, &message);
        }
        let list = |types: &[Ty]| {
            let texts: Vec<String> = types.iter().map(ToString::to_string).collect();
            texts.join(", ")
        };
        let signature = match types.split_first() {
            Some((target, rest)) if member => format!("{target}.({})", list(rest)),
            _ => format!("({})", list(types)),
        };
        let message = format!("found no matching overload for '{name}' applied to '{signature}'");
        self.error(id, &message)
    }

    /// What looks like a call and is not: operators that don't evaluate all of their arguments, and macros.
    fn special(&mut self, id: u64, call: &CallExpr) -> Option<(Ir, Ty)> {
        let name = call.func_name.as_str();
        Some(match (name, &call.target, call.args.as_slice()) {
            ("_&&_", None, [a, b]) => self.logic(id, a, b, Ir::And, name),
            ("_||_", None, [a, b]) => self.logic(id, a, b, Ir::Or, name),
            ("_?_:_", None, [test, yes, no]) => self.conditional(id, test, yes, no),
            ("_[_]", None, [of, key]) => self.index(id, of, key, Access::Get),
            ("_[?_]", None, [of, key]) => self.index(id, of, key, Access::Optional),
            ("_?._", None, [of, field]) => {
                let Expr::Literal(LiteralValue::String(field)) = &field.expr else {
                    return Some(self.error(id, "unsupported optional field selection"));
                };
                let (of, ty) = self.expr(of);
                self.field(id, of, &ty, field.inner(), Access::Optional)
            }
            ("has", None, [arg]) => match &arg.expr {
                Expr::Select(select) => self.select(id, select, Access::Has),
                _ => self.error(id, "invalid argument to has() macro"),
            },
            ("all", Some(over), args) => self.repeat(id, Loop::All, over, args)?,
            ("exists", Some(over), args) => self.repeat(id, Loop::Exists, over, args)?,
            ("exists_one" | "existsOne", Some(over), args) => {
                self.repeat(id, Loop::ExistsOne, over, args)?
            }
            ("filter", Some(over), [variable, test]) => {
                let args = [variable.clone(), test.clone()];
                self.repeat(id, Loop::Filter, over, &args)?
            }
            ("map", Some(over), args) => self.repeat(id, Loop::Map, over, args)?,
            ("transformList", Some(over), args) => self.transform(id, Loop::Map, over, args)?,
            ("transformMap", Some(over), args) => {
                self.transform(id, Loop::MapEntries, over, args)?
            }
            ("optMap", Some(of), [variable, body]) => {
                self.with_value(id, of, variable, body, false)
            }
            ("optFlatMap", Some(of), [variable, body]) => {
                self.with_value(id, of, variable, body, true)
            }
            ("orValue", Some(of), [other]) => self.or_else(id, of, other, false),
            ("or", Some(of), [other]) => self.or_else(id, of, other, true),
            ("bind", Some(space), [variable, value, body]) if matches!(&space.expr, Expr::Ident(space) if space == "cel") =>
            {
                let Expr::Ident(variable) = &variable.expr else {
                    return Some(
                        self.error(id, "cel.bind() variable names must be simple identifiers"),
                    );
                };
                let (value, ty) = self.expr(value);
                let (body, body_ty) =
                    self.within(vec![(variable.clone(), ty)], |this| this.expr(body));
                let bind = Ir::Bind {
                    value: Box::new(value),
                    body: Box::new(body),
                };
                (bind, body_ty)
            }
            _ => return None,
        })
    }

    fn logic(
        &mut self,
        id: u64,
        a: &IdedExpr,
        b: &IdedExpr,
        make: fn(Box<Ir>, Box<Ir>) -> Ir,
        name: &str,
    ) -> (Ir, Ty) {
        let ((a, a_ty), (b, b_ty)) = (self.expr(a), self.expr(b));
        let fits = |ty: &Ty| matches!(ty, Ty::Bool | Ty::Dyn);
        if !fits(&a_ty) || !fits(&b_ty) {
            let message =
                format!("found no matching overload for '{name}' applied to '({a_ty}, {b_ty})'");
            return self.error(id, &message);
        }
        (make(Box::new(a), Box::new(b)), Ty::Bool)
    }

    fn conditional(&mut self, id: u64, test: &IdedExpr, yes: &IdedExpr, no: &IdedExpr) -> (Ir, Ty) {
        let (test, test_ty) = self.expr(test);
        let ((yes, yes_ty), (no, no_ty)) = (self.expr(yes), self.expr(no));
        let alike = super::types::compatible(&yes_ty, &no_ty);
        if !matches!(test_ty, Ty::Bool | Ty::Dyn) || !alike {
            let message = format!(
                "found no matching overload for '_?_:_' applied to '({test_ty}, {yes_ty}, {no_ty})'"
            );
            return self.error(id, &message);
        }
        let ty = joined(yes_ty, no_ty);
        (Ir::Conditional(Box::new([test, yes, no])), ty)
    }

    fn index(&mut self, id: u64, of: &IdedExpr, key: &IdedExpr, access: Access) -> (Ir, Ty) {
        let ((of, of_ty), (key, key_ty)) = (self.expr(of), self.expr(key));
        let optional = matches!(of_ty, Ty::Optional(_)) || access == Access::Optional;
        let found = match (inner(&of_ty), &key_ty) {
            (Ty::List(item, _), Ty::Int | Ty::Dyn) => (*item).clone(),
            (Ty::Map(expected, value), _) if super::types::compatible(&expected, &key_ty) => {
                seen(&value)
            }
            (Ty::Complete(value), Ty::Str | Ty::Dyn) => seen(&value),
            (Ty::Dyn, _) => Ty::Dyn,
            _ => {
                let message = format!(
                    "found no matching overload for '_[_]' applied to '({of_ty}, {key_ty})'"
                );
                return self.error(id, &message);
            }
        };
        let ty = if optional && !matches!(found, Ty::Optional(_)) {
            Ty::Optional(Arc::new(found))
        } else {
            found
        };
        let index = Ir::Index {
            of: Box::new(of),
            key: Box::new(key),
            access,
        };
        (index, ty)
    }

    /// Checks something with more variables in scope.
    fn within<T>(&mut self, variables: Vec<(String, Ty)>, run: impl FnOnce(&mut Self) -> T) -> T {
        let depth = self.variables.len();
        self.variables.extend(variables);
        let result = run(self);
        self.variables.truncate(depth);
        result
    }

    /// The names of a loop's variables.
    fn names<'n>(&mut self, args: &'n [IdedExpr]) -> Option<Vec<&'n str>> {
        args.iter()
            .map(|arg| {
                if let Expr::Ident(name) = &arg.expr {
                    return Some(name.as_str());
                }
                self.error(arg.id, "argument must be a simple name");
                None
            })
            .collect()
    }

    /// A loop with one variable, or with two; `None` if the number of arguments is that of an ordinary function.
    fn repeat(
        &mut self,
        id: u64,
        what: Loop,
        over: &IdedExpr,
        args: &[IdedExpr],
    ) -> Option<(Ir, Ty)> {
        let (variables, test, body) = match (what, args) {
            (Loop::Map, [variable, body]) => (vec![variable.clone()], None, Some(body)),
            (Loop::Map, [variable, test, body]) => (vec![variable.clone()], Some(test), Some(body)),
            (Loop::Map, _) => return None,
            (_, [variable, test]) => (vec![variable.clone()], Some(test), None),
            (_, [first, second, test]) if what != Loop::Filter => {
                (vec![first.clone(), second.clone()], Some(test), None)
            }
            _ => return None,
        };
        Some(self.looped(id, what, over, &variables, test, body))
    }

    /// `transformList` and `transformMap`, which have two variables.
    fn transform(
        &mut self,
        id: u64,
        what: Loop,
        over: &IdedExpr,
        args: &[IdedExpr],
    ) -> Option<(Ir, Ty)> {
        let (variables, test, body) = match args {
            [first, second, body] => ([first.clone(), second.clone()], None, body),
            [first, second, test, body] => ([first.clone(), second.clone()], Some(test), body),
            _ => return None,
        };
        Some(self.looped(id, what, over, &variables, test, Some(body)))
    }

    fn looped(
        &mut self,
        id: u64,
        what: Loop,
        over: &IdedExpr,
        variables: &[IdedExpr],
        test: Option<&IdedExpr>,
        body: Option<&IdedExpr>,
    ) -> (Ir, Ty) {
        let Some(names) = self.names(variables) else {
            return nothing();
        };
        let (over_id, (over, over_ty)) = (over.id, self.expr(over));
        let (key, value) = match &over_ty {
            Ty::List(item, _) => (Ty::Int, (**item).clone()),
            Ty::Map(key, value) => ((**key).clone(), seen(value)),
            Ty::Complete(value) => (Ty::Str, seen(value)),
            Ty::Dyn => (Ty::Dyn, Ty::Dyn),
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return self.error(over_id, &message);
            }
        };
        let two = names.len() == 2;
        let is_map = matches!(over_ty, Ty::Map(..) | Ty::Complete(_));
        let single = if is_map { key.clone() } else { value.clone() };
        let types = if two {
            vec![key.clone(), value]
        } else {
            vec![single.clone()]
        };
        let variables = names.into_iter().map(str::to_owned).zip(types).collect();
        let (test, body) = self.within(variables, |this| {
            let test = test.map(|test| (test.id, this.expr(test)));
            let body = body.map(|body| this.expr(body));
            (test, body)
        });
        if let Some((test_id, (_, ty))) = &test
            && !matches!(ty, Ty::Bool | Ty::Dyn)
        {
            let message = format!("expected type 'bool' but found '{ty}'");
            return self.error(*test_id, &message);
        }
        let _ = id;
        let body_ty = body.as_ref().map_or(Ty::Dyn, |(_, ty)| ty.clone());
        let ty = match what {
            Loop::All | Loop::Exists | Loop::ExistsOne => Ty::Bool,
            Loop::Filter => Ty::list(single),
            Loop::Map => Ty::list(body_ty),
            Loop::MapEntries => Ty::Map(Arc::new(key), Arc::new(body_ty)),
        };
        let looped = Ir::Loop {
            what,
            over: Box::new(over),
            two,
            test: test.map(|(_, (test, _))| Box::new(test)),
            body: body.map(|(body, _)| Box::new(body)),
        };
        (looped, ty)
    }

    fn with_value(
        &mut self,
        id: u64,
        of: &IdedExpr,
        variable: &IdedExpr,
        body: &IdedExpr,
        flat: bool,
    ) -> (Ir, Ty) {
        let Expr::Ident(name) = &variable.expr else {
            return self.error(
                variable.id,
                "optMap() variable name must be a simple identifier",
            );
        };
        let (of, of_ty) = self.expr(of);
        if !matches!(of_ty, Ty::Optional(_) | Ty::Dyn) {
            let message = format!("expected an optional value but found '{of_ty}'");
            return self.error(id, &message);
        }
        let variables = vec![(name.clone(), inner(&of_ty))];
        let (body, body_ty) = self.within(variables, |this| this.expr(body));
        let ty = if flat {
            body_ty
        } else {
            Ty::Optional(Arc::new(body_ty))
        };
        let with = Ir::WithValue {
            of: Box::new(of),
            body: Box::new(body),
            flat,
        };
        (with, ty)
    }

    fn or_else(&mut self, id: u64, of: &IdedExpr, other: &IdedExpr, optional: bool) -> (Ir, Ty) {
        let ((of, of_ty), (other, other_ty)) = (self.expr(of), self.expr(other));
        let fits = matches!(of_ty, Ty::Optional(_) | Ty::Dyn)
            && (!optional || matches!(other_ty, Ty::Optional(_) | Ty::Dyn));
        if !fits {
            let name = if optional { "or" } else { "orValue" };
            return self.no_overload(id, name, true, &[of_ty, other_ty]);
        }
        let ty = if optional {
            joined(of_ty, other_ty)
        } else {
            joined(inner(&of_ty), other_ty)
        };
        let or = Ir::OrElse {
            of: Box::new(of),
            other: Box::new(other),
            optional,
        };
        (or, ty)
    }
}

/// The type inside of an optional one.
fn inner(ty: &Ty) -> Ty {
    match ty {
        Ty::Optional(inner) => (**inner).clone(),
        other => other.clone(),
    }
}

/// The name of a type that has dots in it.
fn type_name(select: &SelectExpr) -> Option<&'static str> {
    let Expr::Select(space) = &select.operand.expr else {
        return None;
    };
    let is_google = matches!(&space.operand.expr, Expr::Ident(name) if name == "google");
    match (is_google, space.field.as_str(), select.field.as_str()) {
        (true, "protobuf", "Timestamp") => Some("google.protobuf.Timestamp"),
        (true, "protobuf", "Duration") => Some("google.protobuf.Duration"),
        _ => None,
    }
}

fn constant(literal: &LiteralValue) -> (Ir, Ty) {
    let (literal, ty) = match literal {
        LiteralValue::Boolean(set) => (Literal::Bool(*set.inner()), Ty::Bool),
        LiteralValue::Bytes(bytes) => (Literal::Bytes(bytes.inner().to_vec()), Ty::Bytes),
        LiteralValue::Double(number) => (Literal::Double(*number.inner()), Ty::Double),
        LiteralValue::Int(number) => (Literal::Int(*number.inner()), Ty::Int),
        LiteralValue::Null => (Literal::Null, Ty::Null),
        LiteralValue::String(text) => (Literal::Str(text.inner().to_owned()), Ty::Str),
        LiteralValue::UInt(number) => (Literal::Uint(*number.inner()), Ty::Uint),
    };
    (Ir::Literal(literal), ty)
}
