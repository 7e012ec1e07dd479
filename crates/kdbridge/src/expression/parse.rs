//! The structure of an expression.

use super::token::{Token, TokenKind, tokens};
use super::{Problem, ProblemKind};
use crate::types::Tag;

/// Expressions in expressions are followed this far.
const DEEPEST: usize = 64;

/// An expression, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) at: usize,
    pub(super) kind: NodeKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NodeKind {
    Number(u64),
    Name(String),
    /// `&x`
    Address(Box<Node>),
    /// `*x`
    Target(Box<Node>),
    /// `-x`
    Negative(Box<Node>),
    /// `x.member`, or with `true`, `x->member`.
    Member(Box<Node>, String, bool),
    /// `x[i]`
    Element(Box<Node>, Box<Node>),
    /// `(type)x`
    Cast(TypeName, Box<Node>),
    /// `x + y`, or with `true`, `x - y`.
    Sum(Box<Node>, Box<Node>, bool),
    /// `sizeof(type)`, `sizeof(x)`
    Size(Result<TypeName, Box<Node>>),
    /// `per_cpu(x, number)`
    PerCpu(Box<Node>, Box<Node>),
}

/// A type as it stands in an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TypeName {
    pub(super) at: usize,
    pub(super) tag: Tag,
    pub(super) name: String,
    /// How many `*` follow.
    pub(super) pointers: usize,
}

/// Reads an expression. `is_type` tells a name in parentheses that is a type from one that is a
/// variable.
pub(super) fn parse(text: &str, is_type: &mut dyn FnMut(&str) -> bool) -> Result<Node, Problem> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        next: 0,
        depth: 0,
        is_type,
    };
    let node = parser.sum()?;
    match parser.peek() {
        TokenKind::End => Ok(node),
        _ => Err(parser.unexpected("the end")),
    }
}

struct Parser<'a> {
    tokens: Vec<Token>,
    next: usize,
    depth: usize,
    is_type: &'a mut dyn FnMut(&str) -> bool,
}

impl Parser<'_> {
    fn sum(&mut self) -> Result<Node, Problem> {
        let mut node = self.unary()?;
        loop {
            let at = self.at();
            let minus = if self.takes("+") {
                false
            } else if self.takes("-") {
                true
            } else {
                return Ok(node);
            };
            let right = Box::new(self.unary()?);
            let kind = NodeKind::Sum(Box::new(node), right, minus);
            node = Node { at, kind };
        }
    }

    fn unary(&mut self) -> Result<Node, Problem> {
        let at = self.at();
        self.depth += 1;
        if self.depth > DEEPEST {
            let kind = ProblemKind::TooDeep;
            return Err(Problem { at, kind });
        }
        let node = self.unary_within(at);
        self.depth -= 1;
        node
    }

    fn unary_within(&mut self, at: usize) -> Result<Node, Problem> {
        let kind = if self.takes("&") {
            NodeKind::Address(self.unary()?.into())
        } else if self.takes("*") {
            NodeKind::Target(self.unary()?.into())
        } else if self.takes("-") {
            NodeKind::Negative(self.unary()?.into())
        } else if self.is_cast() {
            self.expect("(")?;
            let name = self.type_name()?;
            self.expect(")")?;
            NodeKind::Cast(name, self.unary()?.into())
        } else {
            return self.postfix();
        };
        Ok(Node { at, kind })
    }

    fn postfix(&mut self) -> Result<Node, Problem> {
        let mut node = self.primary()?;
        loop {
            let at = self.at();
            let kind = if self.takes(".") {
                NodeKind::Member(node.into(), self.name()?, false)
            } else if self.takes("->") {
                NodeKind::Member(node.into(), self.name()?, true)
            } else if self.takes("[") {
                let index = self.sum()?;
                self.expect("]")?;
                NodeKind::Element(node.into(), index.into())
            } else {
                return Ok(node);
            };
            node = Node { at, kind };
        }
    }

    fn primary(&mut self) -> Result<Node, Problem> {
        let at = self.at();
        let kind = match self.peek().clone() {
            TokenKind::Number(number) => {
                self.next += 1;
                NodeKind::Number(number)
            }
            TokenKind::Name(name) => {
                self.next += 1;
                self.named(name)?
            }
            TokenKind::Sign("(") => {
                self.next += 1;
                let node = self.sum()?;
                self.expect(")")?;
                return Ok(node);
            }
            _ => return Err(self.unexpected("a name, a number or `(`")),
        };
        Ok(Node { at, kind })
    }

    fn named(&mut self, name: String) -> Result<NodeKind, Problem> {
        match name.as_str() {
            "sizeof" => {
                self.expect("(")?;
                let what = if self.is_type_name() {
                    Ok(self.type_name()?)
                } else {
                    Err(self.sum()?.into())
                };
                self.expect(")")?;
                Ok(NodeKind::Size(what))
            }
            "per_cpu" if *self.peek() == TokenKind::Sign("(") => {
                self.expect("(")?;
                let variable = self.sum()?;
                self.expect(",")?;
                let number = self.sum()?;
                self.expect(")")?;
                Ok(NodeKind::PerCpu(variable.into(), number.into()))
            }
            _ => Ok(NodeKind::Name(name)),
        }
    }

    fn is_cast(&mut self) -> bool {
        if *self.peek() != TokenKind::Sign("(") {
            return false;
        }
        self.next += 1;
        let is_type = self.is_type_name();
        self.next -= 1;
        is_type
    }

    fn is_type_name(&mut self) -> bool {
        match self.peek().clone() {
            TokenKind::Name(name) => {
                is_word_of_types(&name) || tag_of(&name).is_some() || (self.is_type)(&name)
            }
            _ => false,
        }
    }

    fn type_name(&mut self) -> Result<TypeName, Problem> {
        let at = self.at();
        let (mut tag, mut words) = (Tag::Plain, Vec::new());
        while words.is_empty() || matches!(self.peek(), TokenKind::Name(_)) {
            let word = self.name()?;
            match tag_of(&word) {
                Some(found) => tag = found,
                None if word == "const" || word == "volatile" => {}
                None => words.push(word),
            }
        }
        let mut pointers = 0;
        while self.takes("*") {
            pointers += 1;
        }
        Ok(TypeName {
            at,
            tag,
            name: full_name(&words),
            pointers,
        })
    }

    fn name(&mut self) -> Result<String, Problem> {
        match self.peek().clone() {
            TokenKind::Name(name) => {
                self.next += 1;
                Ok(name)
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    fn takes(&mut self, sign: &'static str) -> bool {
        let is_it = *self.peek() == TokenKind::Sign(sign);
        self.next += usize::from(is_it);
        is_it
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), Problem> {
        if self.takes(sign) {
            return Ok(());
        }
        Err(self.unexpected(sign))
    }

    fn peek(&self) -> &TokenKind {
        let token = self.tokens.get(self.next);
        token.map_or(&TokenKind::End, |token| &token.kind)
    }

    fn at(&self) -> usize {
        let token = self.tokens.get(self.next).or(self.tokens.last());
        token.map_or(0, |token| token.at)
    }

    fn unexpected(&self, instead: &'static str) -> Problem {
        Problem {
            at: self.at(),
            kind: ProblemKind::Expected(instead),
        }
    }
}

fn tag_of(word: &str) -> Option<Tag> {
    match word {
        "struct" => Some(Tag::Struct),
        "union" => Some(Tag::Union),
        "enum" => Some(Tag::Enum),
        _ => None,
    }
}

fn is_word_of_types(word: &str) -> bool {
    let words = [
        "char", "short", "int", "long", "signed", "unsigned", "void", "const", "volatile",
    ];
    words.contains(&word)
}

/// The name that debug information has for a type of the language.
fn full_name(words: &[String]) -> String {
    let has = |word| words.iter().any(|it| it == word);
    if !words.iter().all(|it| is_word_of_types(it)) {
        return words.join(" ");
    }
    let longs = words.iter().filter(|it| *it == "long").count();
    let unsigned = if has("unsigned") { "unsigned " } else { "" };
    match longs {
        _ if has("void") => "void".to_owned(),
        _ if has("char") && has("signed") => "signed char".to_owned(),
        _ if has("char") => format!("{unsigned}char"),
        _ if has("short") && has("unsigned") => "short unsigned int".to_owned(),
        _ if has("short") => "short int".to_owned(),
        0 => format!("{unsigned}int"),
        1 => format!("long {unsigned}int"),
        _ => format!("long long {unsigned}int"),
    }
}
