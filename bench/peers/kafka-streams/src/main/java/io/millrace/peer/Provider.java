package io.millrace.peer;

import java.io.IOException;
import java.io.RandomAccessFile;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

/**
 * The simulated payment service provider, in this process: the same rules and test tokens as
 * {@code psp/}, for the two operations the peer asks for, authorize and void. An idempotency key is
 * one request for ever. What it did is in a file before the answer is given, so that it survives the
 * process.
 */
final class Provider implements AutoCloseable {
    /** What was asked for and how it was answered; decline is null when it was approved. */
    record Answer(String reference, long amountMinor, String decline, boolean soft) {
        boolean approved() {
            return decline == null;
        }
    }

    /** Everything known of one order. */
    static final class Account {
        final String orderId;
        final String currency;
        String reference = "";
        long authorizedMinor;
        long voidedMinor;
        int authorizations;
        boolean live;
        final Map<String, Answer> decided = new HashMap<>(4);

        Account(String orderId, String currency) {
            this.orderId = orderId;
            this.currency = currency;
        }

        synchronized String toJson() {
            return "{\"order_id\":" + quoted(orderId) + ",\"reference\":" + quoted(reference) + ",\"currency\":"
                    + quoted(currency) + ",\"authorized_minor\":" + authorizedMinor
                    + ",\"captured_minor\":0,\"voided_minor\":" + voidedMinor
                    + ",\"refunded_minor\":0,\"authorizations\":" + authorizations
                    + ",\"captures\":0,\"live\":" + live + "}";
        }
    }

    private final Map<String, Account> accounts = new ConcurrentHashMap<>();
    private final RandomAccessFile file;

    private Provider(RandomAccessFile file) {
        this.file = file;
    }

    /** Opens the ledger, or makes one. */
    static Provider open(Path path) throws IOException {
        List<String> lines = Files.exists(path) ? Files.readAllLines(path) : new ArrayList<>();
        Provider provider = new Provider(new RandomAccessFile(path.toFile(), "rw"));
        for (String line : lines) {
            String[] part = line.split("\t", -1);
            if (part.length == 7) {
                provider.act(part[0], part[1], part[2], Long.parseLong(part[3]), part[4], part[5]);
            }
        }
        provider.file.seek(provider.file.length());
        return provider;
    }

    Answer authorize(String orderId, String key, long amount, String currency, String token) {
        return handle("authorize", orderId, key, amount, currency, token);
    }

    Answer letGo(String orderId, String key, long amount, String currency, String token) {
        return handle("void", orderId, key, amount, currency, token);
    }

    Collection<Account> accounts() {
        return accounts.values();
    }

    private Answer handle(String operation, String orderId, String key, long amount, String currency, String token) {
        Account known = accounts.get(orderId);
        if (known != null) {
            synchronized (known) {
                Answer before = known.decided.get(key);
                if (before != null) {
                    return before;
                }
            }
        }
        // The last, empty part tells a whole line from one that a crash cut short.
        String line = String.join("\t", operation, orderId, key, Long.toString(amount), currency, token, "") + "\n";
        synchronized (file) {
            try {
                file.write(line.getBytes(StandardCharsets.UTF_8));
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        }
        return act(operation, orderId, key, amount, currency, token);
    }

    private Answer act(String operation, String orderId, String key, long amount, String currency, String token) {
        Account account = accounts.computeIfAbsent(orderId, id -> new Account(id, currency));
        synchronized (account) {
            return account.decided.computeIfAbsent(
                    key, k -> operation.equals("void") ? voided(account) : authorized(account, amount, token));
        }
    }

    private static Answer authorized(Account account, long amount, String token) {
        switch (token) {
            case "tok_declined":
                return new Answer(null, 0, "card_declined", false);
            case "tok_expired":
                return new Answer(null, 0, "expired_card", false);
            case "tok_soft_decline":
                return new Answer(null, 0, "try_again_later", true);
            default:
                account.authorizations++;
                account.reference = "sim_" + account.orderId + "_" + account.authorizations;
                account.authorizedMinor += amount;
                account.live = true;
                return new Answer(account.reference, amount, null, false);
        }
    }

    private static Answer voided(Account account) {
        if (!account.live) {
            return new Answer(null, 0, "authorization_expired", false);
        }
        account.live = false;
        account.voidedMinor = account.authorizedMinor;
        return new Answer(account.reference, account.voidedMinor, null, false);
    }

    @Override
    public void close() {
        try {
            file.close();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static String quoted(String text) {
        return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
    }
}
