-- A participation keeps the product's terms of its start, and can end early: the client quits, or an
-- operator cancels it. A process of the release before reads neither reason, so none is written before
-- the upgrade is finished.

set local lock_timeout = '3s';

alter table promotion_user
    add column product_terms_id bigint,
    drop constraint promotion_user_status,
    add constraint promotion_user_status check (
        case status
            when 'IN_PROGRESS' then (rides_completed < rides_target or further_goals is not null)
                and num_nonnulls(completed_at, reward_deadline, rewarded_at, expired_at, expired_reason) = 0
            when 'COMPLETED' then rides_completed = rides_target
                and completed_at is not null and reward_deadline > completed_at
                and num_nonnulls(rewarded_at, expired_at, expired_reason) = 0
            when 'REWARDED' then rides_completed = rides_target
                and completed_at is not null and reward_deadline is not null
                and rewarded_at is not null and rewarded_at < reward_deadline
                and num_nonnulls(expired_at, expired_reason) = 0
            when 'EXPIRED' then rewarded_at is null and expired_at is not null
                and case expired_reason
                        when 'CHALLENGE_NOT_COMPLETED' then (rides_completed < rides_target or further_goals is not null)
                            and num_nonnulls(completed_at, reward_deadline) = 0
                            and expired_at >= challenge_deadline
                        when 'REWARD_NOT_CLAIMED' then rides_completed = rides_target
                            and completed_at is not null and reward_deadline is not null
                            and expired_at >= reward_deadline
                        when 'QUIT' then (rides_completed < rides_target or further_goals is not null)
                            and num_nonnulls(completed_at, reward_deadline) = 0
                        when 'CANCELLED' then num_nonnulls(completed_at, reward_deadline) in (0, 2)
                        else false
                    end
            else false
        end) not valid;
comment on column promotion_user.product_terms_id is 'The product as it was at the start; null for participations from before schema version 17, which take the product of the moment. No foreign key: the rows are never deleted, and all starts of a promotion would lock the same one.';

insert into schema_compatibility values (17, 2);
