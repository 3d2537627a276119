//! What patterns find: events, their texts packed together so that finding one allocates nothing.

use super::{PatternId, Standing};
use std::net::IpAddr;
use std::ops::Deref;

/// The address of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventIp {
    /// Canonical.
    pub ip: IpAddr,
    /// What may be done to it.
    pub standing: Standing,
}

/// A text of an event, as its place among the [`Texts`] that belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    start: u32,
    len: u32,
}

/// Neighbours in one of the lists of [`Texts`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Run {
    start: u32,
    len: u32,
}

impl Run {
    /// The things behind the first `from` of a list that is now `to` long.
    pub fn between(from: usize, to: usize) -> Self {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { start: narrow(from), len: narrow(to.saturating_sub(from)) }
    }

    /// Its things in `list`.
    pub fn of<T>(self, list: &[T]) -> &[T] {
        let start = self.start as usize;
        list.get(start..start + self.len as usize).unwrap_or_default()
    }

    /// Where in its list the first thing behind it stands.
    pub fn end(self) -> usize {
        self.start as usize + self.len as usize
    }

    /// How many there are.
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// A named event. Small and plain: what it says in words lies in its [`Texts`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event {
    /// Which pattern.
    pub pattern: PatternId,
    /// For how many it counts, 1 to [`super::WEIGHT_MAX`].
    pub weight: u32,
    /// The client.
    pub ip: Option<EventIp>,
    /// The account by name.
    pub user: Option<Text>,
    /// The account by id.
    pub user_id: Option<Text>,
    /// The client's country.
    pub country: Option<Text>,
    /// A capture or field named reason.
    pub reason: Option<Text>,
    /// The request.
    pub request_id: Option<Text>,
    /// Values of other fields that loaded rules count.
    pub values: Run,
    /// The rules that count it.
    pub rules: Run,
}

/// The texts, values and rules of many events.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Texts {
    text: String,
    /// By their number in [`super::set::PatternSet::counted`].
    values: Vec<(u16, Text)>,
    /// Numbers of rules, ascending for each event.
    rules: Vec<u16>,
}

impl Texts {
    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.text.len() + size_of_val(self.values.as_slice()) + size_of_val(self.rules.as_slice())
    }

    /// Keeps a text; none if the texts of the batch are too long together.
    pub fn put(&mut self, text: &str) -> Option<Text> {
        let len = u32::try_from(text.len()).ok()?;
        let start = u32::try_from(self.text.len()).ok()?;
        self.text.push_str(text);
        Some(Text { start, len })
    }

    /// A text that was kept here.
    pub fn get(&self, text: Text) -> &str {
        let start = text.start as usize;
        self.text.get(start..start + text.len as usize).unwrap_or_default()
    }

    /// Keeps the values of an event, given with their slots; an empty one is none.
    pub fn put_values<V: AsRef<str>>(&mut self, values: impl Iterator<Item = (u16, V)>) -> Run {
        let start = self.values.len();
        for (slot, value) in values.filter(|(_, value)| !value.as_ref().is_empty()) {
            if let Some(text) = self.put(value.as_ref()) {
                self.values.push((slot, text));
            }
        }
        Run::between(start, self.values.len())
    }

    /// Keeps the rules of an event, in ascending order.
    pub fn put_rules(&mut self, rules: impl Iterator<Item = u16>) -> Run {
        let start = self.rules.len();
        self.rules.extend(rules);
        Run::between(start, self.rules.len())
    }

    /// Keeps what another event says.
    pub fn copy(&mut self, of: EventView<'_>) -> Event {
        let mut text = |text: Option<Text>| text.and_then(|text| self.put(of.texts.get(text)));
        let event = Event {
            user: text(of.user),
            user_id: text(of.user_id),
            country: text(of.country),
            reason: text(of.reason),
            request_id: text(of.request_id),
            ..*of.event
        };
        let values = of.values.of(&of.texts.values).iter();
        let values = self.put_values(values.map(|(slot, text)| (*slot, of.texts.get(*text))));
        let rules = self.put_rules(of.rules().iter().copied());
        Event { values, rules, ..event }
    }
}

/// An event together with its texts.
#[derive(Debug, Clone, Copy)]
pub struct EventView<'a> {
    /// The event.
    pub event: &'a Event,
    /// Where its texts are.
    pub texts: &'a Texts,
}

impl Deref for EventView<'_> {
    type Target = Event;

    fn deref(&self) -> &Event {
        self.event
    }
}

impl<'a> EventView<'a> {
    fn text(self, text: Option<Text>) -> Option<&'a str> {
        text.map(|text| self.texts.get(text))
    }

    /// The account by name.
    pub fn user(self) -> Option<&'a str> {
        self.text(self.event.user)
    }

    /// The account by id.
    pub fn user_id(self) -> Option<&'a str> {
        self.text(self.event.user_id)
    }

    /// The client's country.
    pub fn country(self) -> Option<&'a str> {
        self.text(self.event.country)
    }

    /// A capture or field named reason.
    pub fn reason(self) -> Option<&'a str> {
        self.text(self.event.reason)
    }

    /// The request.
    pub fn request_id(self) -> Option<&'a str> {
        self.text(self.event.request_id)
    }

    /// The value of a counted field.
    pub fn value(self, slot: u16) -> Option<&'a str> {
        let values = self.event.values.of(&self.texts.values);
        values.iter().find(|(own, _)| *own == slot).map(|(_, text)| self.texts.get(*text))
    }

    /// The values of all counted fields, with their slots.
    pub fn all_values(self) -> impl Iterator<Item = (u16, &'a str)> {
        let Self { event, texts } = self;
        event.values.of(&texts.values).iter().map(|(slot, text)| (*slot, texts.get(*text)))
    }

    /// The numbers of the rules that count it, ascending.
    pub fn rules(self) -> &'a [u16] {
        self.event.rules.of(&self.texts.rules)
    }
}

/// Events with their texts, and what was nearly one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Events {
    /// The events of all records, in order.
    pub list: Vec<Event>,
    /// Their texts.
    pub texts: Texts,
    /// Patterns that records begin like without being them.
    pub near_misses: Vec<PatternId>,
}

impl Events {
    /// The events of a run.
    pub fn of(&self, run: Run) -> impl DoubleEndedIterator<Item = EventView<'_>> + Clone {
        run.of(&self.list).iter().map(|event| EventView { event, texts: &self.texts })
    }

    /// A copy of the events of a run.
    pub fn cut(&self, run: Run) -> Self {
        let mut own = Self::default();
        for view in self.of(run) {
            let event = own.texts.copy(view);
            own.list.push(event);
        }
        own
    }

    /// All of them, as a run.
    pub fn all(&self) -> Run {
        Run::between(0, self.list.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_says_the_same() {
        let mut events = Events::default();
        for n in 0..3 {
            let texts = &mut events.texts;
            let event = Event {
                pattern: n,
                weight: 1,
                ip: None,
                user: texts.put(&format!("user{n}")),
                user_id: None,
                country: texts.put(""),
                reason: texts.put("bad"),
                request_id: None,
                values: texts.put_values([(3, "x"), (4, "")].into_iter()),
                rules: texts.put_rules([n, n + 1].into_iter()),
            };
            events.list.push(event);
        }
        let copy = events.cut(Run::between(1, 3));
        let said = |events: &Events, run: Run| -> Vec<String> {
            let views = events.of(run);
            views
                .map(|v| {
                    format!(
                        "{:?} {:?} {:?} {:?} {:?} {:?}",
                        v.user(),
                        v.country(),
                        v.reason(),
                        v.value(3),
                        v.value(4),
                        v.rules()
                    )
                })
                .collect()
        };
        assert_eq!(said(&copy, copy.all()), said(&events, Run::between(1, 3)));
        assert_eq!(
            said(&copy, copy.all())[0],
            r#"Some("user1") Some("") Some("bad") Some("x") None [1, 2]"#
        );
    }
}
