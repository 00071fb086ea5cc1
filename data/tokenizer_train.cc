// Training a lossless SentencePiece model: byte fallback, identity normalisation, all spaces kept, newline as a symbol.
//
// Cost: the sample is held in memory (about three times, with SentencePiece's copies) and, for bpe and unigram, time
// grows a little faster than the sample. The result depends on the sample alone: no sampling of SentencePiece's own,
// and its number of threads is fixed, because it decides the order of its sums.
//
// SentencePiece ends the process on some texts (unigram on "aaaa"), which no exception handler can stop. So it trains
// in a child process that sends the model back through a pipe; the child's memory goes with it.
#include "data/tokenizer.h"

#include <sentencepiece_trainer.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "core/files.h"
#include "data/tokenizer_error.h"
#include "data/utf8.h"

namespace {

constexpr size_t sentence_bytes = 4096;     // longer lines are cut; SentencePiece counts positions in 16 bits
constexpr size_t meta_pieces = 3 + 1 + 256; // <unk> <s> </s>, newline, bytes

// Sentences for the trainer, and how often every character occurs in them.
struct Sample {
    std::vector<std::string> sentences;
    std::map<std::string, size_t, std::less<>> characters;
    size_t characters_total = 0, bytes = 0;

    void add_sentence(std::string_view text);
    void add_text(std::string_view text);
};

void Sample::add_sentence(std::string_view text) {
    while (!text.empty()) {
        size_t cut = text.size() > sentence_bytes ? utf8_cut(text.data(), sentence_bytes) : text.size();
        sentences.emplace_back(text.substr(0, cut));
        text.remove_prefix(cut);
    }
}

// Sentences end at newlines and at what pieces cannot hold: invalid bytes, NUL, tab (the trainer's own mark), U+2581
// (stands for a space there) and U+2585 (stands for the unknown).
void Sample::add_text(std::string_view text) {
    size_t start = 0, i = 0;
    while (i < text.size()) {
        size_t length = utf8_length(text.data() + i, text.size() - i);
        std::string_view character = text.substr(i, length ? length : 1);
        bool breaks = length == 0 || text[i] == '\n' || text[i] == '\0' || text[i] == '\t' ||
                      character == "\xE2\x96\x81" || character == "\xE2\x96\x85";
        if (breaks) {
            add_sentence(text.substr(start, i - start));
            start = i + character.size();
        } else {
            auto found = characters.find(character);
            if (found == characters.end()) found = characters.emplace(character, 0).first;
            found->second++;
            characters_total++;
        }
        i += character.size();
    }
    add_sentence(text.substr(start));
    bytes += text.size();
}

bool read_sample(const TokenizerTraining *training, Sample &sample, Error *error) {
    while (sample.bytes < training->sample_bytes) {
        const char *text = nullptr;
        size_t size = 0;
        if (!training->next(training->context, &text, &size))
            return error_set(error, ERROR_SYSTEM, "cannot read the text for the tokenizer");
        if (size == 0) break;
        sample.add_text({text, std::min(size, training->sample_bytes - sample.bytes)});
    }
    if (sample.sentences.empty())
        return error_set(error, ERROR_USER,
                         "no text to train a tokenizer on: it has only line ends, tabs, NULs or bytes that are no UTF-8");
    return true;
}

// The share of character occurrences that get pieces of their own; the rest, the rarest, are spelled in bytes. All of
// them, unless that would take more than half of the vocabulary; then down to 99.95 %, or even 98 %, SentencePiece's
// least.
bool choose_coverage(const Sample &sample, size_t vocabulary, double *coverage, Error *error) {
    std::vector<size_t> counts;
    for (const auto &entry : sample.characters) counts.push_back(entry.second);
    std::sort(counts.rbegin(), counts.rend());
    size_t room = vocabulary - meta_pieces, kept = 0, covered = 0;
    double total = static_cast<double>(sample.characters_total);
    size_t needed = 0; // characters for 98 %
    for (size_t sum = 0; needed < counts.size() && static_cast<double>(sum) < 0.98 * total; needed++)
        sum += counts[needed];
    if (needed > room)
        return error_set(error, ERROR_USER,
                         "a vocabulary of %zu is too small: the text uses %zu different characters; %zu is the least",
                         vocabulary, counts.size(), meta_pieces + needed);
    while (kept < counts.size() && kept < room && (kept < room / 2 || static_cast<double>(covered) < 0.9995 * total))
        covered += counts[kept++];
    // A little below the exact share: SentencePiece compares in single precision, and must not keep one more.
    *coverage = kept == counts.size() ? 1.0 : (static_cast<double>(covered) - 0.75) / total;
    return true;
}

class Sentences : public sentencepiece::SentenceIterator {
  public:
    explicit Sentences(const std::vector<std::string> &sentences) : sentences_(sentences) {}
    bool done() const override { return index_ == sentences_.size(); }
    void Next() override { index_++; }
    const std::string &value() const override { return sentences_[index_]; }
    sentencepiece::util::Status status() const override { return {}; }

  private:
    const std::vector<std::string> &sentences_;
    size_t index_ = 0;
};

// The model; empty if SentencePiece made none.
std::string train_here(const TokenizerTraining *training, const Sample &sample, double coverage) {
    Sentences sentences(sample.sentences);
    std::string model;
    char share[32];
    snprintf(share, sizeof share, "%.9f", coverage);
    auto status = sentencepiece::SentencePieceTrainer::Train({{"model_type", training->type},
                                                              {"vocab_size", std::to_string(training->vocabulary)},
                                                              {"hard_vocab_limit", "false"},
                                                              {"character_coverage", share},
                                                              {"byte_fallback", "true"},
                                                              {"normalization_rule_name", "identity"},
                                                              {"remove_extra_whitespaces", "false"},
                                                              {"add_dummy_prefix", "false"},
                                                              {"allow_whitespace_only_pieces", "true"},
                                                              {"user_defined_symbols", "\n"},
                                                              {"num_threads", "16"},
                                                              {"minloglevel", "4"}},
                                                             &sentences, &model);
    if (!status.ok()) model.clear();
    return model;
}

// The child: trains, writes the model, leaves without running the parent's exit handlers. Nothing may be thrown out of
// it, or the child would go on with the parent's work.
[[noreturn]] void child_main(int pipe_end, const TokenizerTraining *training, const Sample &sample,
                             double coverage) noexcept {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    // Locks that the parent holds are not to outlive it here; 3 and up are its files.
    if (pipe_end > 3) close_range(3, static_cast<unsigned>(pipe_end) - 1, 0);
    close_range(static_cast<unsigned>(pipe_end) + 1, ~0U, 0);
    if (std::atexit([] { _exit(1); }) != 0) _exit(1); // SentencePiece may call exit()
    if (!freopen("/dev/null", "w", stderr)) _exit(1);
    std::string model;
    try {
        model = train_here(training, sample, coverage);
    } catch (...) {
        _exit(1); // there was no memory; without a model the parent says that
    }
    for (size_t done = 0; done < model.size();) {
        ssize_t written = write(pipe_end, model.data() + done, model.size() - done);
        if (written < 0 && errno != EINTR) _exit(1);
        if (written > 0) done += static_cast<size_t>(written);
    }
    _exit(0);
}

// What the child says until it closes its end of the pipe.
bool hear(int pipe_end, const TokenizerTraining *training, std::vector<char> &model, Error *error) {
    char buffer[65536];
    try {
        for (;;) {
            ssize_t got = read(pipe_end, buffer, sizeof buffer);
            if (got == 0) return true;
            if (got > 0)
                model.insert(model.end(), buffer, buffer + got);
            else if (errno != EINTR)
                return error_errno(error, "%s: cannot read what was trained", training->model_path);
        }
    } catch (...) {
        return tokenizer_thrown(training->model_path, error);
    }
}

bool train_in_child(const TokenizerTraining *training, const Sample &sample, double coverage, std::vector<char> &model,
                    Error *error) {
    int ends[2];
    if (pipe(ends) != 0) return error_errno(error, "%s: cannot start to train it", training->model_path);
    pid_t child = fork();
    if (child < 0) {
        error_errno(error, "%s: cannot start to train it", training->model_path);
        close(ends[0]);
        close(ends[1]);
        return false;
    }
    if (child == 0) {
        close(ends[0]);
        child_main(ends[1], training, sample, coverage);
    }
    close(ends[1]);
    const bool heard = hear(ends[0], training, model, error);
    close(ends[0]); // a child that is still speaking ends by it
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    if (!heard) return false;
    if (model.empty() || status != 0)
        return error_set(error, ERROR_USER,
                         "SentencePiece gave up training a %s model on this text: it is too short or too repetitive, "
                         "or memory ran out; try --type bpe or char",
                         training->type);
    return true;
}

// A bpe or unigram model that came out smaller than asked for has nothing left to merge.
bool check_size(const TokenizerTraining *training, const std::vector<char> &model, Error *error) {
    sentencepiece::SentencePieceProcessor processor;
    processor.LoadFromSerializedProto({model.data(), model.size()})
        .IgnoreError(); // one that does not load has no pieces
    size_t size = static_cast<size_t>(processor.GetPieceSize());
    if (size >= training->vocabulary) return true;
    return error_set(error, ERROR_USER,
                     "a vocabulary of %zu is too large for this text (%s); the largest possible is %zu",
                     training->vocabulary, training->type, size);
}

bool train(const TokenizerTraining *training, Error *error) {
    bool known = false;
    for (const char *type : {"bpe", "unigram", "char"}) known = known || strcmp(training->type, type) == 0;
    if (!known)
        return error_set(error, ERROR_USER, "tokenizer type \"%s\": choose bpe, unigram or char", training->type);
    if (training->vocabulary <= meta_pieces || training->vocabulary > (size_t{1} << 24))
        return error_set(error, ERROR_USER,
                         "a vocabulary of %zu is out of range: %zu to %zu (256 bytes, 4 special tokens "
                         "and at least one piece)",
                         training->vocabulary, meta_pieces + 1, size_t{1} << 24);
    Sample sample;
    std::vector<char> model;
    double coverage = 1.0;
    if (!read_sample(training, sample, error)) return false;
    bool is_char = strcmp(training->type, "char") == 0; // keeps as many characters as there is room for by itself
    if (!is_char && !choose_coverage(sample, training->vocabulary, &coverage, error)) return false;
    return train_in_child(training, sample, coverage, model, error) &&
           (is_char || check_size(training, model, error)) &&
           file_write_atomic(training->model_path, model.data(), model.size(), error);
}

} // namespace

extern "C" bool tokenizer_train(const TokenizerTraining *training, Error *error) {
    try {
        return train(training, error);
    } catch (...) {
        return tokenizer_thrown(training->model_path, error);
    }
}
