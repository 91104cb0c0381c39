"""What commands share: options, output, exit codes, streams, errors of documents."""
