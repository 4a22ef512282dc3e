"""The database itself keeps the trail: rows get its own clock, and nobody changes, deletes or empties them.

Triggers do not bind a superuser or the tables' owner, who can take them off: the hash chain is for those.
"""

from django.db import migrations

MAKE = """
CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is append-only: % on % refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE FUNCTION audit_only_erase() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.digest = OLD.digest AND NEW.salt = '' AND NEW.source = '' AND NEW.text = ''
       AND OLD.erased_at IS NULL AND NEW.erased_at IS NOT NULL THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'a text of the audit trail can be erased, and nothing else'
        USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE FUNCTION audit_clock() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.at := clock_timestamp();
    RETURN NEW;
END $$;

CREATE TRIGGER audit_clock BEFORE INSERT ON audit_auditevent FOR EACH ROW EXECUTE FUNCTION audit_clock();

CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE ON audit_auditevent
    FOR EACH ROW EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE ON audit_auditseal
    FOR EACH ROW EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE ON audit_audithead
    FOR EACH ROW EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_no_change BEFORE DELETE ON audit_audittext FOR EACH ROW EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_only_erase BEFORE UPDATE ON audit_audittext FOR EACH ROW EXECUTE FUNCTION audit_only_erase();

CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit_auditevent EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit_auditseal EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit_audithead EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit_audittext EXECUTE FUNCTION audit_refuse();
"""

UNMAKE = """
DROP FUNCTION audit_refuse() CASCADE;
DROP FUNCTION audit_only_erase() CASCADE;
DROP FUNCTION audit_clock() CASCADE;
"""


class Migration(migrations.Migration):
    dependencies = [("audit", "0001_trail")]

    operations = [migrations.RunSQL(MAKE, UNMAKE)]
