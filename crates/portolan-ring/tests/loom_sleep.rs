//! Nobody sleeps for ever: loom reports a deadlock when a wake-up is lost.
#![cfg(loom)]

mod bell;

use bell::Doorbell;
use loom::sync::Arc;
use loom::thread;
use portolan_ring::{Bell, Consumer, Producer, PushError, Readiness, Region};

/// Runs `body` in every interleaving with at most four preemptions. Without a bound it takes an
/// hour; three find each of the faults that these tests were tried on.
fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(4);
    builder.check(body);
}

/// A ring and the bells of its two sides.
struct Channel {
    producer: Producer,
    consumer: Consumer,
    bells: Arc<Bells>,
}

#[derive(Default)]
struct Bells {
    producer: Doorbell,
    consumer: Doorbell,
}

fn channel() -> Channel {
    let region = Region::heap(64).expect("a capacity");
    Channel {
        producer: Producer::new(region.clone()),
        consumer: Consumer::new(region),
        bells: Arc::new(Bells::default()),
    }
}

/// Takes and releases `count` records one by one, sleeping where there is none.
fn take(consumer: &mut Consumer, bells: &Bells, count: u32) {
    let mut bytes = Vec::new();
    for number in 0..count {
        while consumer.pop(&mut bytes).expect("honest").is_none() {
            let (bell, readiness) = consumer.prepare_sleep().expect("honest");
            bells.producer.ring_if(bell);
            if readiness == Readiness::Sleep {
                bells.consumer.wait();
                consumer.awake();
            }
        }
        assert_eq!(bytes, number.to_ne_bytes().repeat(bytes.len() / 4));
        bells.producer.ring_if(consumer.release());
    }
}

/// Pushes a record, sleeping where there is no space. What is pushed is published only here.
fn push(producer: &mut Producer, bells: &Bells, number: u32, words: usize) {
    let payload = number.to_ne_bytes().repeat(words);
    loop {
        match producer.push(number, &[&payload]) {
            Ok(()) => return,
            Err(PushError::Full { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        let (bell, readiness) = producer
            .prepare_sleep(payload.len() as u32)
            .expect("honest");
        bells.consumer.ring_if(bell);
        if readiness == Readiness::Sleep {
            bells.producer.wait();
            producer.awake();
        }
    }
}

#[test]
fn loom_a_sleeping_consumer_is_woken() {
    model(|| {
        let Channel {
            mut producer,
            mut consumer,
            bells,
        } = channel();
        let ours = bells.clone();
        let writer = thread::spawn(move || {
            for number in 0..2 {
                push(&mut producer, &ours, number, 1);
                ours.consumer.ring_if(producer.publish());
            }
        });
        take(&mut consumer, &bells, 2);
        writer.join().expect("honest");
    });
}

#[test]
fn loom_one_bell_wakes_for_a_batch() {
    model(|| {
        let Channel {
            mut producer,
            mut consumer,
            bells,
        } = channel();
        let ours = bells.clone();
        let writer = thread::spawn(move || {
            push(&mut producer, &ours, 0, 1);
            push(&mut producer, &ours, 1, 1);
            ours.consumer.ring_if(producer.publish());
        });
        take(&mut consumer, &bells, 2);
        writer.join().expect("honest");
    });
}

/// A quiet publication wakes nobody, and the loud one behind it does not take the sleeper for awake.
#[test]
fn loom_a_quiet_record_is_found_with_the_next_loud_one() {
    model(|| {
        let Channel {
            mut producer,
            mut consumer,
            bells,
        } = channel();
        let ours = bells.clone();
        let writer = thread::spawn(move || {
            push(&mut producer, &ours, 0, 1);
            producer.publish_quietly();
            push(&mut producer, &ours, 1, 1);
            ours.consumer.ring_if(producer.publish());
        });
        take(&mut consumer, &bells, 2);
        writer.join().expect("honest");
    });
}

/// The publisher has seen the sleeper's word and is about to take it off. Meanwhile the sleeper
/// wakes by itself (its wait timed out), takes the record, and goes to sleep again. Taking the word
/// off now must ring, or the sleeper is lost: the next publication finds no word.
#[test]
fn loom_publisher_clears_flag_late() {
    model(|| {
        let Channel {
            mut producer,
            mut consumer,
            bells,
        } = channel();
        let ours = bells.clone();
        let writer = thread::spawn(move || {
            for number in 0..2 {
                push(&mut producer, &ours, number, 1);
                ours.consumer.ring_if(producer.publish());
            }
        });
        if consumer.prepare_sleep().expect("honest").1 == Readiness::Sleep {
            consumer.awake();
        }
        take(&mut consumer, &bells, 2);
        writer.join().expect("honest");
    });
}

/// The same in the other direction: the releaser takes the producer's word off late.
#[test]
fn loom_releaser_clears_flag_late() {
    model(|| {
        let Channel {
            mut producer,
            mut consumer,
            bells,
        } = channel();
        push(&mut producer, &bells, 0, 6);
        push(&mut producer, &bells, 1, 6);
        assert_eq!(producer.publish(), Bell::Quiet);
        let ours = bells.clone();
        let reader = thread::spawn(move || take(&mut consumer, &ours, 2));
        if producer.prepare_sleep(24).expect("honest").1 == Readiness::Sleep {
            producer.awake();
        }
        push(&mut producer, &bells, 2, 6);
        push(&mut producer, &bells, 3, 6);
        reader.join().expect("honest");
    });
}

/// The ring holds two of these records; the third and fourth wait for space.
#[test]
fn loom_a_sleeping_producer_is_woken() {
    model(|| {
        let Channel {
            mut producer,
            mut consumer,
            bells,
        } = channel();
        push(&mut producer, &bells, 0, 6);
        push(&mut producer, &bells, 1, 6);
        assert_eq!(producer.publish(), Bell::Quiet);
        let ours = bells.clone();
        let reader = thread::spawn(move || take(&mut consumer, &ours, 2));
        push(&mut producer, &bells, 2, 6);
        push(&mut producer, &bells, 3, 6);
        reader.join().expect("honest");
    });
}

/// Nothing is published but by a producer that goes to sleep for space, at which the consumer may
/// be asleep too.
#[test]
fn loom_a_producer_does_not_sleep_on_what_it_has_not_published() {
    model(|| {
        let Channel {
            mut producer,
            mut consumer,
            bells,
        } = channel();
        let ours = bells.clone();
        let writer = thread::spawn(move || {
            for number in 0..3 {
                push(&mut producer, &ours, number, 6);
            }
            ours.consumer.ring_if(producer.publish());
        });
        take(&mut consumer, &bells, 3);
        writer.join().expect("honest");
    });
}

/// A consumer that takes several records and releases them only by going to sleep.
#[test]
fn loom_a_consumer_does_not_sleep_on_what_it_has_not_released() {
    model(|| {
        let Channel {
            mut producer,
            mut consumer,
            bells,
        } = channel();
        let ours = bells.clone();
        let writer = thread::spawn(move || {
            for number in 0..3 {
                push(&mut producer, &ours, number, 6);
                ours.consumer.ring_if(producer.publish());
            }
        });
        let (mut bytes, mut taken) = (Vec::new(), 0);
        while taken < 3 {
            if consumer.pop(&mut bytes).expect("honest").is_some() {
                taken += 1;
                continue;
            }
            let (bell, readiness) = consumer.prepare_sleep().expect("honest");
            bells.producer.ring_if(bell);
            if readiness == Readiness::Sleep {
                bells.consumer.wait();
                consumer.awake();
            }
        }
        writer.join().expect("honest");
    });
}

/// One sleep is answered with one bell: the word is taken off by whoever rings.
#[test]
fn loom_a_sleep_is_rung_for_once() {
    model(|| {
        let Channel {
            mut producer,
            mut consumer,
            ..
        } = channel();
        let writer = thread::spawn(move || {
            let mut rung = 0;
            for number in 0..3u32 {
                producer.push(number, &[]).expect("honest");
                rung += u32::from(producer.publish() == Bell::Ring);
            }
            rung
        });
        let slept = consumer.prepare_sleep().expect("honest").1 == Readiness::Sleep;
        let rung = writer.join().expect("honest");
        assert!(rung <= 1);
        assert!(
            rung == 1 || !slept,
            "a sleeper that saw nothing is rung for"
        );
    });
}
