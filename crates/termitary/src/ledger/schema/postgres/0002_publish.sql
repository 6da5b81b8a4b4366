-- Publishing for programs without the library, and for triggers and psql: an event, and
-- its deliveries, become real when the caller's transaction commits. The checks and the
-- rows are those of the library (src/draft.rs, src/payload, src/ledger/on_postgres). The
-- caller needs no rights on the tables, and its search path does not matter.

CREATE FUNCTION publish(
    event text,
    data text,
    key text DEFAULT NULL,
    id text DEFAULT NULL,
    due timestamptz DEFAULT NULL,
    source text DEFAULT '/termitary/sql',
    version integer DEFAULT 1
) RETURNS uuid
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
SET standard_conforming_strings = on
AS $publish$
#variable_conflict use_column
DECLARE
    -- Before the event has its seq: readers wait for this transaction from now on.
    began CONSTANT xid8 := pg_current_xact_id();
    now_us CONSTANT bigint := extract(epoch FROM clock_timestamp()) * 1000000;
    starts bigint := now_us;
    scoped CONSTANT text := publish.event || ' ' || publish.id;
    value jsonb;
    is_new boolean;
    published uuid;
BEGIN
    IF publish.event IS NULL OR octet_length(publish.event) > 100
        OR publish.event !~ '^[a-z0-9][a-z0-9_-]*([.][a-z0-9][a-z0-9_-]*)*$' COLLATE "C"
    THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            '`%s` cannot be an event name: use lower-case words joined by dots, such as todos.created',
            coalesce(publish.event, 'NULL'));
    END IF;
    IF publish.data IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            'the payload of %s is NULL: publish JSON, such as {} or null in quotes', publish.event);
    END IF;
    IF octet_length(publish.data) > 262144 THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            'the payload of %s has %s bytes, more than the 262144 allowed: put the large part elsewhere and publish a reference',
            publish.event, octet_length(publish.data));
    END IF;
    BEGIN
        -- jsonb has no zero characters; a payload may have them.
        value := replace(publish.data, '\u0000', '\u0001')::jsonb;
    EXCEPTION
        WHEN data_exception THEN
            RAISE invalid_parameter_value USING MESSAGE = format(
                'the payload of %s is not JSON: publish a text such as {"id":7}, or a jsonb', publish.event);
        WHEN statement_too_complex THEN
            value := NULL;
    END;
    IF value IS NULL
        OR octet_length(publish.data) - octet_length(translate(publish.data, '[{', '')) > 127
        AND jsonb_path_exists(value, 'strict $.**{127} ? (@.type() == "array" || @.type() == "object")')
    THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            'the payload of %s is nested deeper than the 127 levels that can be read: use fewer levels', publish.event);
    END IF;
    IF publish.data ~ '[0-9]{200}|[0-9][eE][+]?[0-9]{2}'
        AND jsonb_path_exists(value, 'strict $.** ? (@ > 1.7976931348623157e308 || @ < -1.7976931348623157e308)')
    THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            'the payload of %s has a number that is too large to be read: publish it as a text', publish.event);
    END IF;
    IF octet_length(publish.key) > 1024 THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            'the key of %s has %s bytes, more than the 1024 allowed: use an id, or a hash of what is longer',
            publish.event, octet_length(publish.key));
    END IF;
    IF octet_length(publish.id) NOT BETWEEN 1 AND 128 THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            'the idempotency id of %s has %s bytes: use 1 to 128', publish.event, octet_length(publish.id));
    END IF;
    IF publish.due NOT BETWEEN timestamptz '0001-01-01 00:00:00+00' AND timestamptz '9999-12-30 22:00:00+00' THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            '%s cannot be due at %s: use a time of the years 1 to 9999', publish.event, publish.due);
    ELSIF publish.due IS NOT NULL THEN
        starts := extract(epoch FROM publish.due) * 1000000;
    END IF;
    IF publish.source IS NULL OR publish.source !~ '^[!-~]{1,255}$' COLLATE "C" THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            '`%s` cannot be the source of %s: use a path such as /termitary/shop, of up to 255 characters without spaces',
            coalesce(publish.source, 'NULL'), publish.event);
    END IF;
    IF publish.version IS NULL OR publish.version < 1 THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            '%s cannot be the version of %s: use 1 or more', coalesce(publish.version::text, 'NULL'), publish.event);
    END IF;

    -- Again if the earlier event of this id was deleted just now.
    LOOP
        -- A UUIDv7: the milliseconds, their fraction in 1/4096, and 62 random bits.
        published := lpad(to_hex(now_us / 1000), 12, '0')
            || '7' || lpad(to_hex(now_us % 1000 * 4096 / 1000), 3, '0')
            || substr(replace(gen_random_uuid()::text, '-', ''), 17);
        WITH e AS (
            INSERT INTO termitary_events (id, name, version, source, time_us, key, dedup, data, fanned, xid)
            SELECT published, publish.event, publish.version, publish.source, now_us, publish.key, scoped, publish.data,
                CASE WHEN EXISTS (SELECT 1 FROM termitary_routes r WHERE r.event = publish.event) THEN 0 ELSE -1 END,
                began
            ON CONFLICT (source, dedup) WHERE dedup IS NOT NULL DO NOTHING
            RETURNING seq
        ), owed AS (
            INSERT INTO termitary_deliveries (event, subscription, due_us, state)
            SELECT e.seq, r.subscription, starts, 0
            FROM e JOIN termitary_routes r ON r.event = publish.event
        )
        SELECT EXISTS (SELECT 1 FROM e) INTO is_new;
        EXIT WHEN is_new;
        SELECT e.id INTO published FROM termitary_events e
        WHERE e.source = publish.source AND e.dedup = scoped;
        EXIT WHEN FOUND;
    END LOOP;
    RETURN published;
END
$publish$;

CREATE FUNCTION publish(
    event text,
    data jsonb,
    key text DEFAULT NULL,
    id text DEFAULT NULL,
    due timestamptz DEFAULT NULL,
    source text DEFAULT '/termitary/sql',
    version integer DEFAULT 1
) RETURNS uuid
LANGUAGE sql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $publish$
    SELECT publish($1, $2::text, $3, $4, $5, $6, $7)
$publish$;

-- A right to publish is given, as the rights on the tables are.
REVOKE ALL ON FUNCTION publish(text, text, text, text, timestamptz, text, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION publish(text, jsonb, text, text, timestamptz, text, integer) FROM PUBLIC;
