//! The checker: rules for the books once no work is left. I1 to I7 are those of the reliability
//! guide.

use crate::stage::Stage;

/// The name of an error, and a query for the number of its rows; 0 is correct.
const RULES: &[(&str, &str)] = &[
    (
        "I1: deliveries that are not finished",
        "SELECT COUNT(*) FROM termitary_deliveries WHERE state <> 2",
    ),
    (
        "I1: transactional events without a delivery for each subscription",
        "SELECT COUNT(*) FROM termitary_events e
         WHERE NOT (e.name = 'shop.ordered' AND e.data IN (SELECT '{\"n\":' || n || '}' FROM sent))
           AND (SELECT COUNT(*) FROM termitary_deliveries d WHERE d.event = e.seq)
            <> (SELECT COUNT(*) FROM termitary_routes r WHERE r.event = e.name)",
    ),
    (
        "I1: committed orders without exactly one event",
        "SELECT COUNT(*) FROM orders o
         WHERE 1 <> (SELECT COUNT(*) FROM termitary_events e
                     WHERE e.name = 'shop.ordered' AND e.data = '{\"n\":' || o.n || '}')",
    ),
    (
        "I1: committed orders that some handler never saw",
        "SELECT COUNT(*) FROM orders o
         WHERE NOT EXISTS (SELECT 1 FROM runs r WHERE r.subscription = 'pack' AND r.n = o.n)
            OR NOT EXISTS (SELECT 1 FROM runs r WHERE r.subscription = 'gift-wrap' AND r.n = o.n)
            OR NOT EXISTS (SELECT 1 FROM effects f WHERE f.subscription = 'pay' AND f.n = o.n)
            OR NOT EXISTS (SELECT 1 FROM effects f WHERE f.subscription = 'receipt' AND f.n = o.n)",
    ),
    (
        "I1: orders on the bus that were confirmed and never handled",
        "SELECT COUNT(*) FROM sent s WHERE s.known = 1
           AND (NOT EXISTS (SELECT 1 FROM runs r WHERE r.subscription = 'pack' AND r.n = s.n)
             OR NOT EXISTS (SELECT 1 FROM effects f WHERE f.subscription = 'pay' AND f.n = s.n))",
    ),
    (
        "I2: runs and effects of orders that nobody made",
        "SELECT COUNT(*) FROM (SELECT n FROM runs UNION ALL SELECT n FROM effects WHERE subscription <> 'open') x
         WHERE x.n NOT IN (SELECT n FROM orders) AND x.n NOT IN (SELECT n FROM sent)",
    ),
    (
        "I2: events of payments that were not made",
        "SELECT COUNT(*) FROM termitary_events e WHERE e.name = 'shop.paid'
           AND NOT EXISTS (SELECT 1 FROM effects f WHERE f.subscription = 'pay' AND e.data = '{\"n\":' || f.n || '}')",
    ),
    (
        "I3: effects that happened more than once",
        "SELECT COUNT(*) FROM (SELECT 1 FROM effects GROUP BY subscription, n, CASE subscription WHEN 'open' THEN event END
                               HAVING COUNT(*) > 1) x",
    ),
    (
        "I6: ticks without exactly one event, or events without their tick",
        "SELECT COUNT(*) FROM termitary_ticks t FULL JOIN
            (SELECT id FROM termitary_events WHERE name = 'shop.opened') e ON e.id = t.event
         WHERE e.id IS NULL OR t.tick_us IS NULL",
    ),
    (
        "I6: ticks without exactly one effect",
        "SELECT COUNT(*) FROM termitary_ticks t
         WHERE 1 <> (SELECT COUNT(*) FROM effects f WHERE f.subscription = 'open'
                     AND replace(f.event, '-', '') = {id of t.event})",
    ),
];

/// The number of done deliveries of each subscription, as its handler saw them.
const HANDLED: &str = "
    SELECT s.name, COUNT(DISTINCT x.event) FROM termitary_subscriptions s
    LEFT JOIN (SELECT subscription, event FROM runs UNION ALL SELECT subscription, event FROM effects) x
      ON x.subscription = s.name
    WHERE s.event <> '' GROUP BY s.name ORDER BY s.name";

/// Everything that is wrong with the books.
pub(crate) async fn books(stage: &Stage) -> Vec<String> {
    let mut reader = stage.broker.db().read().await.unwrap();
    let mut wrong = Vec::new();
    for (what, sql) in RULES {
        let rows: i64 = sqlx::query_scalar(stage.dialect(sql))
            .fetch_one(&mut *reader)
            .await
            .unwrap();
        if rows != 0 {
            wrong.push(format!("{what}: {rows}"));
        }
    }
    let handled: Vec<(String, i64)> = sqlx::query_as(HANDLED)
        .fetch_all(&mut *reader)
        .await
        .unwrap();
    let status = stage.broker.inspect().status().await.unwrap();
    let counted: Vec<_> = status
        .subscriptions
        .iter()
        .map(|s| (s.name.clone(), s.done as i64))
        .collect();
    if handled != counted {
        wrong.push(format!("I7: handled {handled:?}, counted {counted:?}"));
    }
    wrong
}

/// Changes that break the books, and the rules that must find them.
const BREAKS: &[(&str, &str)] = &[
    (
        "UPDATE termitary_deliveries SET state = 0 WHERE event = (SELECT MAX(seq) FROM termitary_events)",
        "I1: deliveries",
    ),
    (
        "DELETE FROM termitary_deliveries WHERE event = (SELECT MAX(seq) FROM termitary_events)",
        "I1: transactional",
    ),
    (
        "INSERT INTO orders (n) VALUES (50)",
        "I1: committed orders without",
    ),
    ("DELETE FROM runs WHERE n = 1", "I1: committed orders that"),
    (
        "INSERT INTO sent (n, known) VALUES (51, 1)",
        "I1: orders on the bus",
    ),
    ("INSERT INTO runs VALUES ('pack', 'x', 52)", "I2: runs"),
    (
        "DELETE FROM effects WHERE subscription = 'pay' AND n = 1",
        "I2: events",
    ),
    (
        "INSERT INTO effects SELECT * FROM effects WHERE n = 3",
        "I3",
    ),
    (
        "UPDATE termitary_ticks SET event = NULL",
        "I6: ticks without exactly one event",
    ),
    (
        "DELETE FROM effects WHERE subscription = 'open'",
        "I6: ticks without exactly one effect",
    ),
    ("UPDATE termitary_subscriptions SET done = done + 1", "I7"),
];

/// Breaks the books of a finished case, one rule after the other.
pub(crate) async fn sees_what_is_broken(stage: &Stage) {
    assert_eq!(books(stage).await, [""; 0]);
    for (sql, rule) in BREAKS {
        stage.write(sql).await;
        let wrong = books(stage).await;
        assert!(
            wrong.iter().any(|w| w.starts_with(rule)),
            "{rule}: {wrong:?}"
        );
    }
}
