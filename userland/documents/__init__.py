"""Documents and pictures: files that become records, and stay in step with them.

    extract   one file to text in parts, or why not    (formats: plain, table, markup, pdf, docx,
              picture)
    caption   what is on a picture without words, by the attached model where it sees
    chunk     parts to pieces of text that overlap
    tree      which files a folder has
    original  the file itself, to the kernel and back
    sync      what has to be done so that records say what the files do
    progress  a bar for people who wait

All of it runs in a program, as its user: the kernel opens no file and reads no format.
"""
